"""The lock of a tree of trackers."""

from __future__ import annotations

import threading

import pytest

from llm_connect.core.locks import TreeLock


def test_a_thread_that_finds_it_taken_gets_it_once_it_is_let_go() -> None:
    """Nobody is in the critical section beside its holder, who may enter it again."""
    lock, inside, most = TreeLock(), [], []

    def work() -> None:
        for _ in range(200):
            with lock, lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    with lock:
        for thread in threads:
            thread.start()
        threading.Event().wait(0.01)
        assert (lock.owned(), most) == (True, [])
    for thread in threads:
        thread.join()
    assert (max(most), len(most), lock.owned()) == (1, 1_600, False)


@pytest.mark.parametrize("taken", [True, False])
def test_an_interrupt_while_it_is_taken_leaves_it_free(taken: bool) -> None:
    """Ctrl-C may come right after the lock was taken, before anybody could say that it is to be let go."""
    lock = TreeLock()
    take = lock._try

    def interrupted(blocking: bool) -> bool:
        if taken:
            take(blocking)
        raise KeyboardInterrupt

    lock._try = interrupted
    with pytest.raises(KeyboardInterrupt), lock:
        pass
    assert not lock.owned()
