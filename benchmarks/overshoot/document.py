"""docs/overshoot.md: the tables, with when and how they came about; and the README's share of them."""

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

A budget that pays for 20 calls, and 200 attempts to call: what reaches the provider? The judge is the meter of a
provider on loopback, which bills a request when it has arrived. All contenders were measured in one run, each in an
environment and a process of its own.

{short}

The figures say how far the bill went over the cap; a negative one was left unused. {when}

## How to repeat it

```sh
python3 tasks.py overshoot
python3 tasks.py overshoot --ours
```

The first command installs the peers, in virtual environments in your cache folder, measures all of them in ten to
twenty minutes, and writes this page. The second one measures llm-connect alone, within a minute. Both exit with 1 when
llm-connect breaks one of its rules. [The benchmark's own page](../benchmarks/overshoot/README.md) has the scenarios and
the rules; [results.json](../benchmarks/overshoot/results.json) has also how the attempts ended. Calls in threads depend
on the machine's speed; the other columns hardly do.

## What was measured

Each call uses 500 tokens: a prompt of 100 and an answer of 400; with the Chinese prompt 400 and 100. The cap is what 20
such calls cost, in the unit that the contender counts. The attempts are independent of each other, like jobs from a
queue: one that is refused, or fails, does not end the others. A library that means to stop a whole run by its first
error looks worse here than in a run that ends with it.

Where the provider ignores the limit, a call uses 1,300 tokens, more than anybody could know before: no budget can hold
there. What it can do is book all of it and send nothing further; so the calls under way when the first reply comes are
the overshoot.

{tables}

## What each was asked to do

{asked}

Only budgets that work inside the caller's process are compared. A gateway, which all calls go through, is another kind
of thing. shekel says of itself that a budget is not to be shared by threads and tasks; LiteLLM's Router limits its
async form only; pydantic-ai checks its token limits after each response. tokencap runs without tiktoken, which fetches
its vocabulary from the network.
"""


def document(results: Sequence[Result], versions: Mapping[Entry, Mapping[str, str]]) -> str:
    """The whole page."""
    sections = (f"### {heading}\n\n{body}" for heading, body in table.tables(results))
    return _TEXT.format(short=table.short(results), when=_when(), tables="\n\n".join(sections), asked=_asked(versions))


def in_readme(text: str, results: Sequence[Result]) -> str:
    """The README with its table made anew; it leaves out what it says elsewhere."""
    shown = table.short([result for result in results if result.contender not in _NOT_IN_README])
    old = "".join(takewhile(lambda line: line.startswith("|"), text[text.index(_README_TABLE) :].splitlines(True)))
    return text.replace(old, f"{shown}\n")


def _when() -> str:
    day = datetime.now(UTC).date().isoformat()
    machine = f"{os.cpu_count()} processors, {platform.system()}, {platform.machine()}"
    return f"Measured on {day} with Python {platform.python_version()} on a machine with {machine}."


def _asked(versions: Mapping[Entry, Mapping[str, str]]) -> str:
    head = ["| contender | versions | what it was asked to do | budgets of B and C |", "| --- | --- | --- | --- |"]
    rows = [f"| {e.title} | {_versions(found)} | {e.asked} | {e.children} |" for e, found in versions.items()]
    return "\n".join(head + rows)


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())
