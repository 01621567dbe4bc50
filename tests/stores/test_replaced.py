"""Stores that were replaced, or set back to an earlier state, after they were opened."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError, LLMStoreError
from llm_connect.stores.opening import open_budget
from llm_connect.stores.sqlite import file as schema
from tests.budget.budget_helpers import at_rest
from tests.stores.crew import crew, results
from tests.stores.looking import second, session_of
from tests.stores.losing import DURABLE
from tests.stores.servers import RedisServer, new_server


def files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


def copied(path: Path) -> Path:
    """Make a backup of a budget file with SQLite."""
    backup = path.parent / "backup"
    source, target = sqlite3.connect(path), sqlite3.connect(backup)
    with target:
        source.backup(target)
    source.close()
    target.close()
    return backup


def delete(path: Path, backup: Path) -> None:
    for file in files(path):
        file.unlink()


def replace(path: Path, backup: Path) -> None:
    backup.replace(path)


def restore(path: Path, backup: Path) -> None:
    """Restore the backup over the same inode, after deleting the log."""
    for file in files(path)[1:]:
        file.unlink()
    shutil.copyfile(backup, path)


def delete_log(path: Path, backup: Path) -> None:
    """Delete the log, with everything that was not yet written to the file."""
    Path(f"{path}-wal").unlink()


def overwrite(path: Path, backup: Path) -> None:
    """Restore the backup over the same inode, after a full checkpoint."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copyfile(backup, path)


def truncate(path: Path, backup: Path) -> None:
    os.truncate(path, 0)


def scribble(path: Path, backup: Path) -> None:
    path.write_bytes(b"This is no database.\n" * 2_000)


@pytest.mark.parametrize("how", [delete, replace, restore, overwrite, truncate, scribble])
def test_a_file_that_is_another_one_is_told(url: str, how: Callable[[Path, Path], None]) -> None:
    """However the file was replaced, each step of a process that had opened it raises LLMStoreError (STORE-20)."""
    path = Path(url.removeprefix("sqlite:///"))
    budget = open_budget(url, total=1_000)
    budget.record(100)
    backup = copied(path)
    budget.record(800)
    hold = budget.reserve(50)
    how(path, backup)
    for use in (lambda: budget.reserve(1), lambda: budget.record(1), hold.dispatch, budget.snapshot):
        with pytest.raises(LLMStoreError, match=r"deleted, replaced or restored .*Open the budget again"):
            use()
    hold.release()


@pytest.mark.parametrize("how", [delete, replace, restore, delete_log])
def test_who_opens_it_again_goes_on_with_what_is_there(url: str, how: Callable[[Path, Path], None]) -> None:
    """A new tracker uses the new file; the earlier one keeps raising (STORE-20)."""
    path = Path(url.removeprefix("sqlite:///"))
    budget = open_budget(url, total=1_000)
    budget.record(100)
    how(path, copied(path))
    with pytest.raises(LLMStoreError, match="Open the budget again"):
        budget.record(1)
    again = open_budget(url, total=1_000)
    again.record(5)
    assert again.snapshot().spent.tokens == (5 if how in (delete, delete_log) else 105)
    with pytest.raises(LLMStoreError, match="Open the budget again"):
        budget.record(1)
    at_rest(again)


@pytest.mark.parametrize("how", [replace, restore])
def test_who_had_the_file_before_leaves_the_new_one_alone(url: str, how: Callable[[Path, Path], None]) -> None:
    """A process that had opened the old file neither writes its log into the new one nor deletes its log (STORE-20)."""
    path = Path(url.removeprefix("sqlite:///"))
    budget = open_budget(url, total=1_000)
    budget.record(100)
    how(path, copied(path))
    with crew(1, "holder", url) as processes:
        assert processes[0].stdout is not None
        processes[0].stdout.readline()
        budget.close()
        session_of(budget).shut()
        with crew(1, "equal_attempts", url, 3) as others:
            assert results(others) == [3]
        assert processes[0].stdin is not None
        processes[0].stdin.write("\n")
        processes[0].stdin.flush()
        assert results(processes) == [108]


def test_a_link_that_leads_to_another_file_is_told(tmp_path: Path) -> None:
    """A budget is the file that its URL names: a symbolic link that leads elsewhere, or nowhere, is told of.
    (STORE-20)"""
    link, url = tmp_path / "current", f"sqlite:////{tmp_path}/current/budget.db"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    link.symlink_to(tmp_path / "first")
    budget = open_budget(url, total=1_000)
    budget.record(900)
    assert open_budget(f"sqlite:////{tmp_path}/first/budget.db", total=1_000) is budget
    link.unlink()
    with pytest.raises(LLMStoreError, match="replaced"):
        budget.record(1)
    link.symlink_to(tmp_path / "second")
    with pytest.raises(LLMStoreError, match="replaced"):
        budget.reserve(1)
    other = open_budget(url, total=1_000)
    other.record(900)
    at_rest(other)


def test_a_file_that_is_only_used_is_the_same(url: str) -> None:
    """Checkpoints, a VACUUM, new connections and other processes do not look like a replaced file (STORE-20)."""
    path = Path(url.removeprefix("sqlite:///"))
    budget = open_budget(url, total=1_000_000)
    with crew(2, "equal_attempts", url, 200) as processes:
        for number in range(300):
            budget.consume(1)
            if number % 20 == 0:
                connection = sqlite3.connect(path, timeout=20)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)" if number % 40 else "VACUUM")
                connection.close()
                os.utime(path)
        assert sum(results(processes)) == 400
    session_of(budget).shut()
    assert budget.snapshot().spent.tokens == 700
    at_rest(budget)


def test_a_checkpoint_beside_a_reader_raises_no_alarm(url: str) -> None:
    """A partial checkpoint leaves the file inconsistent without its log, but the file is still the same (STORE-20)."""
    path = Path(url.removeprefix("sqlite:///"))
    budget = open_budget(url, total=1_000_000)
    in_part = 0
    for number in range(20):
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            for _ in range(number):
                budget.record(1)
            reader.execute("BEGIN")
            reader.execute("SELECT max(id) FROM ledger").fetchall()
            for _ in range(40):
                budget.record(1)
            checkpoint(path)
            in_part += not whole(path)
            budget.record(1)
        checkpoint(path)
        budget.record(1)
    assert in_part > 0
    assert budget.snapshot().spent.tokens == sum(range(20)) + 20 * 42
    at_rest(budget)


def checkpoint(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def whole(path: Path) -> bool:
    """True if a file is consistent without its log."""
    with closing(schema.peek(str(path))) as connection:
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A separate server, which the test may kill."""
    found = new_server(*DURABLE)
    yield found
    found.stop()


def client_of(server: RedisServer) -> Any:
    import redis

    return redis.Redis.from_url(server.url)


def dumped(server: RedisServer) -> dict[bytes, bytes]:
    with client_of(server) as client:
        return {key: client.dump(key) for key in client.scan_iter()}


def restored(server: RedisServer, state: dict[bytes, bytes]) -> None:
    with client_of(server) as client:
        client.flushall()
        for key, text in state.items():
            client.restore(key, 0, text)


def told(budget: BudgetTracker) -> None:
    for use in (lambda: budget.reserve(1), lambda: budget.record(1), budget.snapshot):
        with pytest.raises(LLMStoreError, match=r"lost .*Open the budget again"):
            use()


@pytest.mark.parametrize("made_anew", [False, True])
def test_redis_that_was_flushed_is_told(server: RedisServer, made_anew: bool) -> None:
    """A flushed server is noticed, even if another process has created and used the budget again (STORE-20)."""
    budget = open_budget(server.url, total=1_000)
    budget.record(900)
    restored(server, {})
    if made_anew:
        with crew(1, "equal_attempts", server.url, 50) as processes:
            assert results(processes) == [50]
    told(budget)
    again = open_budget(server.url, total=None if made_anew else 1_000)
    again.record(7)
    assert again.snapshot().spent.tokens == (57 if made_anew else 7)
    told(budget)


@pytest.mark.parametrize("attempts", [0, 50])
@pytest.mark.parametrize("restart", [False, True])
def test_redis_in_an_earlier_state_is_told(server: RedisServer, attempts: int, restart: bool) -> None:
    """A backup or failover that has lost steps is noticed, however many steps others have made since (STORE-20)."""
    budget = open_budget(server.url, total=1_000)
    budget.record(100)
    state = dumped(server)
    budget.record(800)
    if restart:
        server.kill()
        server.start()
    restored(server, state)
    if attempts:
        with crew(1, "equal_attempts", server.url, attempts) as processes:
            assert results(processes) == [attempts]
    told(budget)
    again = open_budget(server.url)
    assert again.snapshot().spent.tokens == 100 + attempts
    told(budget)


def test_redis_that_was_only_restarted_is_the_same(server: RedisServer) -> None:
    """A restarted server that has lost nothing continues, even for a process without a lease (STORE-20)."""
    budget = open_budget(server.url, total=1_000, lease_seconds=1.2)
    other = second(budget)
    for _ in range(2):
        hold = budget.reserve(10)
        hold.dispatch()
        other.consume(2)
        server.kill()
        server.start()
        hold.settle(3)
        other.consume(1)
        session = session_of(budget)
        session.gate.run(session._look_after, informed=True)
        budget.consume(1)
    assert budget.snapshot().spent.tokens == 2 * 7 == other.snapshot().spent.tokens
    at_rest(budget)


def test_redis_that_evicts_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """An evicting server is refused unless that is accepted; one that does not tell is logged once (STORE-21)."""
    server = new_server("--maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(LLMConfigurationError, match=r"allkeys-lru.*noeviction.*allow_eviction=True"):
            open_budget(server.url, total=5)
        budget = open_budget(server.url, total=5, allow_eviction=True)
        budget.consume(5)
        budget.close()
        with client_of(server) as client:
            client.execute_command("ACL", "SETUSER", "default", "-config")
        with caplog.at_level(logging.WARNING, "llm_connect"):
            for name in ("a", "b"):
                open_budget(server.url, name=name, total=5).close()
        assert caplog.text.count("evicts budgets") == 1
        session_of(budget).shut()
    finally:
        server.stop()
