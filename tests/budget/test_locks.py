"""The lock of a tree of trackers."""

from __future__ import annotations

import threading

from llm_connect.budget.admission.backoff_lock import TreeLock


def test_a_thread_that_finds_it_taken_gets_it_once_it_is_let_go() -> None:
    """Only its owner is in the critical section, and may enter it again; a waiting thread gets the lock once it is
    released.
    """
    lock, inside, most = TreeLock(), [], []

    def work() -> None:
        for _ in range(200):
            if not lock.take(False):
                lock.wait()
            assert lock.take(False)
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.release()
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    lock.wait()
    for thread in threads:
        thread.start()
    threading.Event().wait(0.01)
    assert (lock.owned(), most) == (True, [])
    lock.release()
    for thread in threads:
        thread.join()
    assert (max(most), len(most), lock.owned()) == (1, 1_600, False)
