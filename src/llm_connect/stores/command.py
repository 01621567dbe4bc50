"""`python -m llm_connect budget`: spent, held and remaining amounts of the budgets in a store, by caller."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn

from llm_connect.budget.accounting.bounds import CallFacts
from llm_connect.errors import LLMError
from llm_connect.stores.opening import forget_spending, terms_of
from llm_connect.stores.redis import report as redis_report
from llm_connect.stores.redis.session import ServerTerms
from llm_connect.stores.reports import Report
from llm_connect.stores.sqlite.report import reading
from llm_connect.stores.urls import path_of
from llm_connect.types.amounts import plain

_UNITS = ("tokens", "calls", "usd")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except LLMError as error:
        sys.stderr.write(f"{_printable(str(error))}\n")
        return 1


class _Parser(argparse.ArgumentParser):
    """A parser whose errors print no control characters of the arguments."""

    def error(self, message: str) -> NoReturn:
        super().error(_printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m llm_connect budget", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="ls|show|ledger|reset")
    _command(commands, "ls", _list, "list all budgets of a store")
    show = _command(commands, "show", _show, "show one budget: its children and open holds, and who spent what")
    ledger = _command(commands, "ledger", _ledger, "print the last entries of a budget's ledger")
    reset = _command(commands, "reset", _reset, "reset the spend of a budget to zero, by entries in its ledger")
    for command in (show, ledger, reset):
        described = "the budget's name (default: %(default)s)"
        command.add_argument("name", nargs="?", type=_name, default="budget", help=described)
    ledger.add_argument("--last", type=int, default=20, metavar="N", help="number of entries (default: %(default)s)")
    reset.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    return parser


def _command(commands: Any, name: str, run: Callable[[Any], int], said: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=said, description=said)
    command.add_argument("url", metavar="URL", help="the store: sqlite:///budget.db or redis://host:port/db")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)
    return command


def _name(text: str) -> str:
    if not _can_be_written(text, "utf-8"):
        raise argparse.ArgumentTypeError(f"the name {text!a} is no text in UTF-8")
    return text


def _list(given: Any) -> int:
    with _reading(given.url) as report:
        budgets = report.budgets()
    if given.json:
        return _json(budgets)
    rows = [[*cells, _holds_said(budget)] for budget in budgets for cells in _rows(budget["name"], budget)]
    return _say(_table(["budget", "unit", "spent", "held", "left", "limit", "holds"], rows))


def _show(given: Any) -> int:
    with _reading(given.url) as report:
        budget = report.budget(given.name)
    if given.json:
        return _json(budget)
    trackers = [cells for tracker in budget["trackers"] for cells in _rows(_path_said(tracker), tracker)]
    tables = [(["budget", "unit", "spent", "held", "left", "limit"], trackers)]
    for by, sums in budget["spent_by"].items():
        spent = [
            [name or "(none)", one["entries"], one["tokens"], one["calls"], _money(one["usd"])]
            for name, one in sums.items()
        ]
        tables.append(([by, "entries", "tokens", "calls", "usd"], spent))
    holds = [[_who(hold), hold["tracker"], *_hold_said(hold)] for hold in budget["holds"]]
    tables.append((["held by", "budget", "state", "tokens", "calls", "usd", "model", "age"], holds))
    return _say("\n\n".join(_table(names, rows) for names, rows in tables if rows))


def _ledger(given: Any) -> int:
    with _reading(given.url) as report:
        entries = report.entries(given.name, given.last)
    if given.json:
        return _json(entries)
    names = ("id", "ended_at", "tracker", "outcome", "tokens", "calls", "usd", "adapter", "model")
    rows = [[_money(entry[name]) if name == "usd" else entry[name] for name in names] for entry in entries]
    return _say(_table(list(names), rows))


def _reset(given: Any) -> int:
    with _reading(given.url) as report:
        report.number(given.name)
    if not given.yes and not _agreed(f"Reset the spend of {given.name!r} to zero? [y/N] "):
        sys.stderr.write("Nothing was changed.\n")
        return 1
    labels = {"reset": datetime.now(UTC).isoformat(timespec="seconds"), "by": f"pid {os.getpid()}"}
    forget_spending(terms_of(given.url, name=given.name, prices={}), CallFacts(labels=labels))
    return _list(given)


def _reading(url: str) -> AbstractContextManager[Report]:
    """Return a reader of the store at a URL."""
    if isinstance(terms_of(url, name="budget", prices={}), ServerTerms):
        return redis_report.reading(url)
    return reading(path_of(url))


def _agreed(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _rows(name: str, figures: dict[str, Any]) -> list[list[Any]]:
    """A row for tokens, and one for each other unit that is limited or used."""
    found = []
    for unit in _UNITS:
        of_unit = figures[unit]
        if of_unit["limit"] is not None or unit == "tokens" or float(of_unit["spent"]) or float(of_unit["held"]):
            figures_said = (of_unit[figure] for figure in ("spent", "held", "left", "limit"))
            cells = list(map(_money, figures_said) if unit == "usd" else figures_said)
            if "period" in figures and cells[-1] is not None:
                cells[-1] = f"{_cell(cells[-1])} {figures['period']}"
            found.append([name, unit, *cells])
    return found


def _path_said(tracker: dict[str, Any]) -> str:
    marks = [mark for mark in ("allotment", "closed") if tracker[mark]]
    marks += [f"opens {tracker['opens_at']}"] if "opens_at" in tracker else []
    return f"{tracker['path']} ({', '.join(marks)})" if marks else str(tracker["path"])


def _holds_said(budget: dict[str, Any]) -> str:
    stale = budget["stale_holds"]
    return f"{budget['holds']}, {stale} of them stale" if stale else str(budget["holds"])


def _who(hold: dict[str, Any]) -> str:
    return f"{hold['host']}:{hold['pid']}"


def _hold_said(hold: dict[str, Any]) -> list[Any]:
    state = f"{hold['state']}, stale" if hold["stale"] else hold["state"]
    return [state, hold["tokens"], hold["calls"], _money(hold["usd"]), hold["model"], f"{hold['age_seconds']} s"]


def _money(text: str | None) -> str | None:
    return None if text is None else plain(Decimal(text))


def _json(data: Any) -> int:
    text = json.dumps(data, ensure_ascii=False, indent=2)
    # JSON escapes only some of the control characters of a terminal, and knows nothing of the encoding of the output.
    return _say("".join(sign if sign == "\n" or _is_plain(sign) else json.dumps(sign)[1:-1] for sign in text))


def _is_plain(sign: str) -> bool:
    return sign.isprintable() and _can_be_written(sign, _encoding())


def _encoding() -> str:
    # A stream in memory has none.
    return sys.stdout.encoding or "utf-8"


def _can_be_written(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _say(text: str) -> int:
    encoding = _encoding()
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    return 0


def _table(head: list[str], rows: list[list[Any]]) -> str:
    """Lay out rows under `head`: figures to the right, text to the left, and `-` for None."""
    cells = [head, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    right = [all(_is_figure(row[place]) for row in cells[1:]) for place in range(len(head))]
    lines = [_line(row, widths, right) for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _line(row: list[str], widths: list[int], right: list[bool]) -> str:
    cells = (
        text.rjust(width) if at_right else text.ljust(width)
        for text, width, at_right in zip(row, widths, right, strict=True)
    )
    return "  ".join(cells).rstrip()


def _cell(value: Any) -> str:
    """The text of a value in a table."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else _printable(str(value))


def _printable(text: str) -> str:
    """The text on one line, with escapes (`\\x1b`, `\\n`) for control characters and invisible ones."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _is_figure(text: str) -> bool:
    return text == "-" or text.lstrip("-").replace(",", "").replace(".", "").isdigit()
