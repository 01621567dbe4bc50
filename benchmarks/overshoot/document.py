"""Writes docs/overshoot.md, with the date and method of the run, and the README's table."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile

from benchmarks.overshoot import table
from benchmarks.overshoot.results import Result
from benchmarks.overshoot.roster import NO_BUDGET, Entry

_README_TABLE = "| contender | one after the other |"
_NOT_IN_README = ("llm-connect, calls", NO_BUDGET.title)
_TEXT = """\
# Who keeps a cap

A budget pays for 20 calls, and 200 are attempted: how many reach the provider? The judge is the meter of a provider on
loopback, which bills a request when it has arrived. All contenders were measured in one run, each in its own
environment and process.

{short}

The figures show how far the bill exceeded the cap; a negative figure is unused budget. {when}

## How to repeat it

```sh
python3 tasks.py overshoot
python3 tasks.py overshoot --ours
```

The first command installs the peers in virtual environments in your cache folder, measures all of them in ten to twenty
minutes, and writes this page. The second measures llm-connect alone, within a minute. Both exit with 1 if llm-connect
breaks one of its rules. [The benchmark's own page](../benchmarks/overshoot/README.md) has the scenarios and the rules;
[results.json](../benchmarks/overshoot/results.json) also shows how the attempts ended. Calls in threads depend on the
machine's speed; the other columns hardly do.

## What was measured

Each call uses 500 tokens: a prompt of 100 and an answer of 400, or 400 and 100 with the Chinese prompt. The cap is the
price of 20 such calls, in the unit that the contender counts. The attempts are independent, like jobs from a queue: if
one is refused or fails, the others go on. A library that stops a whole run at its first error looks worse here than in
a run that ends with it.

If the provider ignores the limit, a call uses 1,300 tokens, more than any client can predict, so no budget can hold
there. It can only book the whole overrun and send nothing more. The overshoot is then the calls that were in flight
when the first reply arrived.

{tables}

## How each was configured

{asked}

The comparison covers only budgets inside the caller's process. A gateway that all calls go through is a different kind
of product. shekel's documentation says that threads and tasks must not share a budget; LiteLLM's Router limits only its
async form; pydantic-ai checks its token limits after each response. tokencap runs without tiktoken, which downloads its
vocabulary.
"""


def document(results: Sequence[Result], versions: Mapping[Entry, Mapping[str, str]]) -> str:
    """Return the whole page."""
    sections = (f"### {heading}\n\n{body}" for heading, body in table.tables(results))
    return _TEXT.format(short=table.short(results), when=_when(), tables="\n\n".join(sections), asked=_asked(versions))


def in_readme(text: str, results: Sequence[Result]) -> str:
    """Return the README with a new table, without the rows that it does not show."""
    shown = table.short([result for result in results if result.contender not in _NOT_IN_README])
    old = "".join(takewhile(lambda line: line.startswith("|"), text[text.index(_README_TABLE) :].splitlines(True)))
    return text.replace(old, f"{shown}\n")


def _when() -> str:
    day = datetime.now(UTC).date().isoformat()
    machine = f"{os.cpu_count()} processors, {platform.system()}, {platform.machine()}"
    return f"Measured on {day} with Python {platform.python_version()} on a machine with {machine}."


def _asked(versions: Mapping[Entry, Mapping[str, str]]) -> str:
    head = ["| contender | versions | configuration | budgets of B and C |", "| --- | --- | --- | --- |"]
    rows = [f"| {e.title} | {_versions(found)} | {e.asked} | {e.children} |" for e, found in versions.items()]
    return "\n".join(head + rows)


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())
