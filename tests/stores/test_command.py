"""`python -m llm_connect budget`."""

from __future__ import annotations

import contextvars
import hashlib
import io
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.config import RunConfig
from llm_connect.stores.command import main
from llm_connect.stores.opening import open_budget
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import NOTHING
from tests.budget.budget_helpers import at_rest
from tests.stores.looking import end_leases


def used(url: str) -> tuple[BudgetTracker, Any]:
    """A budget with entries of a call and of a child, and with an open hold."""
    budget = open_budget(url, name="nightly", total=10_000, total_usd="5.00")
    adapter = MockLLMAdapter("x", prompt_tokens=300, completion_tokens=40, price=Price(prompt=1, completion=2))
    for tracker in (budget, budget.child("team", 5_000, join=True)):
        adapter.execute_prompt("x" * 400, RunConfig(budget_tracker=tracker, labels={"job": "report"}, max_tokens=50))
    hold = contextvars.Context().run(budget.reserve, 1_200, usd="0.01", model="m")
    hold.dispatch()
    return budget, hold


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def data(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def test_ls_says_what_is_spent_held_and_left(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`ls` shows every budget of a file, with each unit that it limits or uses (STORE-9)."""
    _, hold = used(url)
    open_budget(url, name="other").record(7)
    nightly, other = data(capsys, "ls", url)
    assert (nightly["name"], nightly["holds"], nightly["stale_holds"]) == ("nightly", 1, 0)
    assert nightly["tokens"] == {
        "limit": 10_000, "spent": 680, "held": 1_200, "left": 8_120, "presumed": 0, "allotted": 0
    }  # fmt: skip
    assert (nightly["usd"]["spent"], nightly["usd"]["left"]) == ("0.00076", "4.98924")
    assert (other["tokens"]["spent"], other["tokens"]["left"]) == (7, None)
    text = said(capsys, "ls", url).splitlines()
    assert text[2].split() == ["nightly", "tokens", "680", "1,200", "8,120", "10,000", "1"]
    assert text[4].split() == ["nightly", "usd", "0.00076", "0.01", "4.98924", "5", "1"]
    assert text[5].split() == ["other", "tokens", "7", "0", "-", "-", "0"]
    hold.release()


def test_show_says_by_whom(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` lists children, adapters, models, labels, and the processes that have holds (STORE-9)."""
    budget, hold = used(url)
    shown = data(capsys, "show", url, "nightly")
    assert [(tracker["path"], tracker["tokens"]["spent"]) for tracker in shown["trackers"]] == [
        ("nightly", 680),
        ("nightly/team", 340),
    ]
    assert shown["spent_by"]["label"] == {"job=report": {"entries": 2, "tokens": 680, "calls": 2, "usd": "0.00076"}}
    assert shown["spent_by"]["model"]["mock"]["tokens"] == 680
    (held,) = shown["holds"]
    assert (held["state"], held["tokens"], held["model"], held["stale"]) == ("dispatched", 1_200, "m", False)
    text = said(capsys, "show", url, "nightly")
    assert f":{held['pid']}" in text
    assert "job=report" in text
    with budget.allot("s", 50):
        assert "nightly/s (allotment)" in said(capsys, "show", url, "nightly")
    assert "nightly/s (closed)" in said(capsys, "show", url, "nightly")
    hold.release()


def test_show_leaves_out_what_has_no_rows(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without spend and holds, `show` has one table (STORE-9)."""
    open_budget(url, name="new", total=10).close()
    headers = [line.split()[0] for line in said(capsys, "show", url, "new").splitlines()]
    assert headers == ["budget", "------", "new"]


def test_stale_holds_are_named_and_reading_changes_nothing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A hold whose lease has ended is shown as stale, and stays until a process uses the budget (STORE-9)."""
    budget, hold = used(url)
    session: Any = budget.gate.session
    end_leases(budget)
    before = dump(url)
    assert "1, 1 of them stale" in said(capsys, "ls", url)
    assert "dispatched, stale" in said(capsys, "show", url, "nightly")
    assert len(data(capsys, "ledger", url, "nightly")) == 2
    assert dump(url) == before
    assert data(capsys, "ls", url)[0]["stale_holds"] == 1
    session.leases.own.expires_at = 0
    assert budget.snapshot().held == NOTHING
    assert data(capsys, "ls", url)[0]["stale_holds"] == 0
    del hold


def dump(url: str) -> str:
    """The whole content of a store."""
    if not url.startswith("sqlite"):
        return dump_of_server(url)
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    digest = hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()
    connection.close()
    return digest


def dump_of_server(url: str) -> str:
    import redis

    with redis.Redis.from_url(url) as client:
        return repr([(key, client.dump(key)) for key in sorted(client.keys())])


def test_ledger_says_the_last_entries(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`ledger` prints the last entries, oldest first, in the form of `to_dict` (STORE-9)."""
    budget, hold = used(url)
    hold.settle(1_000)
    assert data(capsys, "ledger", url, "nightly", "--last", "2") == [entry.to_dict() for entry in budget.ledger][1:]
    assert said(capsys, "ledger", url, "nightly").splitlines()[-1].split()[2:5] == ["nightly", "settled", "1,000"]


def test_reset_asks_first(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a yes nothing changes; with one, entries reset the spend, and limits and holds stay (STORE-9)."""
    budget, hold = used(url)
    with budget.reserve(10, usd=0) as presumed:
        presumed.dispatch()
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    assert main(["reset", url, "nightly"]) == 1
    assert "Nothing was changed" in capsys.readouterr().err
    assert budget.snapshot().spent.tokens == 690
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert main(["reset", url, "nightly"]) == 0
    snapshot = budget.snapshot()
    assert (snapshot.spent, snapshot.presumed, snapshot.held.tokens) == (NOTHING, NOTHING, 1_200)
    assert snapshot.total == 10_000
    assert budget.child("team", join=True).snapshot().spent == NOTHING
    assert len(budget.ledger) == 6
    hold.release()
    at_rest(budget)


@pytest.mark.parametrize("words", [["ls"], ["show"], ["ledger"], ["reset", "--yes"]], ids=lambda words: words[0])
def test_what_is_not_there_is_not_made(words: list[str], url: str, folder: Path, capsys: Any) -> None:
    """If a file or a budget does not exist, an error of one line names it (STORE-9)."""
    assert main([words[0], url, *words[1:]]) == 1
    assert "budget.db cannot be used" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
    open_budget(url, name="other")
    if words != ["ls"]:
        assert main([words[0], url, *words[1:]]) == 1
        assert "has no budget 'budget'" in capsys.readouterr().err


def test_a_file_that_is_none_of_ours(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another program's database and an empty file stay unchanged."""
    path = url.removeprefix("sqlite:///")
    Path(path).touch()
    assert main(["ls", url]) == 1
    assert "not a budget file of this version" in capsys.readouterr().err
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE people (name TEXT)")
    connection.close()
    assert main(["ls", url]) == 1
    assert "another program" in capsys.readouterr().err
    assert main(["ls", "postgres://localhost"]) == 1


def test_the_module_is_the_command(url: str) -> None:
    """`python -m llm_connect budget ...` runs the command; anything else prints its usage."""
    open_budget(url, total=5)
    run = [sys.executable, "-W", "error", "-m", "llm_connect"]
    done = subprocess.run([*run, "budget", "ls", url], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2].split()[:2] == ["budget", "tokens"]
    done = subprocess.run([*run, "else"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("usage: python -m llm_connect budget")) == (1, True)


ODD = {
    "escape": "\x1b[31mred\x1b]0;owned\x07",
    "line": "a\nnightly  tokens  0  0  999999",
    "return": "a\r\nb",
    "8-bit escape": "a\x9b31mb",
    "right to left": "\u202eabc",
    "separator": "a\u2028b",
    "unicode": "名前💩",
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_names_do_not_command_a_terminal(
    name: str, form: tuple[str, ...], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, labels, models and errors are printed on one line, with escapes. (STORE-30)"""
    budget = open_budget(url, name=name, total=1_000)
    budget.record(7, labels={name: name})
    budget.child(f"child {name}", total=10, join=True).record(1)
    with contextvars.Context().run(budget.reserve, 5) as answered:
        answered.dispatch()
        answered.settle(5, model=name)
    hold = contextvars.Context().run(budget.reserve, 5)
    for words in (["ls", url], ["show", url, name], ["ledger", url, name]):
        text = said(capsys, *words, *form)
        assert all(line.isprintable() for line in text.split("\n"))
        if form:
            assert name in json.dumps(json.loads(text), ensure_ascii=False) or not name.isprintable()
        else:
            assert (name if name.isprintable() else name.encode("unicode_escape").decode()) in text
    hold.release()
    assert main(["show", url, f"no {name}"]) == 1
    assert capsys.readouterr().err[:-1].isprintable()


def test_arguments_that_are_no_text_are_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no budget can have, and escapes in an option, end in a line of plain text. (STORE-9)"""
    open_budget(url, total=10)
    for words in (["show", url, "\udcff\udcfe"], ["reset", url, "\udcff"], ["ls", url, "--\x1b[31m"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        error = capsys.readouterr().err
        assert (ended.value.code, "error: " in error) == (2, True)
        assert error.isascii()
        assert "\x1b" not in error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_output_cannot_show_are_escaped(
    url: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal of any encoding shows every budget, and JSON stays JSON. (STORE-9)"""
    name = "zürich-東京"
    open_budget(url, name=name, total=10)
    shown = {}
    for words in (["ls", url], ["ls", url, "--json"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", out)
        assert main(words) == 0
        out.flush()
        shown[len(words)] = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "rich-\\u6771\\u4eac" in shown[2]
    assert json.loads(shown[3])[0]["name"] == name
