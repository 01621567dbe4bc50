"""Writes docs/performance.md and the README's ratios."""

from __future__ import annotations

from report import Report, as_markdown, with_table

_README_HEAD = ("CPU of a call with a budget, beside the raw SDK", "ratio")
_README_ROWS = {
    "sync call, OpenAI": "one after the other, `OpenAIAdapter` / `OpenAI().chat.completions.create`",
    "gather of 1,000, OpenAI": "1,000 at once, `OpenAIAdapter` / `AsyncOpenAI().chat.completions.create`",
    "cold process to the first reply, OpenAI": "a process from its start to the first reply",
}
_TEXT = """\
# What a call costs

This page compares the cost of a call through llm-connect, with a budget, with the SDK alone and with other libraries.
The server runs on loopback and answers without reading the request, so only the client's own work remains. The figures
are ratios of CPU time per call, ours / the other's, unless they say otherwise; smaller is better. In each round the
contenders take turns of some calls each, and a ratio compares two consecutive turns. "is" is the median, "spread" the
middle half of all turns, "ours" our own CPU time per call.

{when}

{table}

## How to repeat it

```sh
python3 tasks.py performance --everyday
python3 tasks.py performance
```

The first command measures ours and the raw SDKs within two or three minutes, and writes nothing. The second installs
the peers in virtual environments in your cache folder, measures everything in about half an hour, and writes this page,
the README's three ratios, and [results.json](../benchmarks/performance/results.json) with every single figure.
`--python` chooses the interpreter, `--only` groups of rows. Ratios within a table are comparable; microseconds depend
on the machine and its other load. Total times need a machine with two idle processors.

## Why some figures are not lower

**Import.** The package imports no third-party module. Half of the added time goes to the core's dataclasses, whose
methods are generated at import; a fifth goes to `typing`, which the comparison does not import.

**A long system prompt and options.** The raw SDK's time grows with the parameters that it checks; ours does not. We
send through the SDK's low-level `post`, which sets the floor, and the table shows it: it checks nothing, yet builds its
options, headers and URL again for each call. To go lower we would have to bypass the SDK, and lose its refreshed keys,
its clients for Azure and its headers. A prototype that did so, httpx2 with the SDK's headers, reached 0.30.

**Budget on against off.** Of the time that a budget adds to a call, two fifths go to its upper bound (rendering the
request, measuring its texts), a quarter to the hold itself (reserve, dispatch, settle, entry), and the rest to the
reservation request. All of it runs once per call, by then cold in the processor's caches, so it takes two to three
times as long as in a loop over the tracker alone.

A manual hold, with a bound that is already known, is the floor for a budget, and the table shows it.

**The tracker alone.** If an empty method takes 15 ns, 300,000 bookings a second leave the time of 222 empty methods for
each booking; the table has both figures. It also shows the floor: a tracker that keeps every promise, written as three
functions without any structure (`benchmarks/performance/inlined_tracker.py`). It checks figures, looks for waiting
calls, closed budgets and learned factors, walks the path to the root, remembers the owner of each hold, so that no
caller waits for itself, and notices lost holds. The difference to our tracker is the price of having these in separate
functions, which other code uses as well. The least code that books a call (one lock, taken three times; three units, a
hold, its entry, totals) keeps only the cap of those promises.

**Gemini compared with google-genai on aiohttp.** If aiohttp is installed, the SDK calls it directly, without the
options that we need: it follows redirects, trusts other certificates, and repeats a request by itself. Ours uses the
SDK's `request` and an httpx2 client on aiohttp; in several runs its ratio was between 0.70 and 0.78. The SDK's
`request` alone, on its own aiohttp, reached 0.47.

**Total times.** They depend on the machine's other load, and ours had some: in several runs the Claude adapter was
between 1.01 and 1.07, and eight threads on one tracker between 0.91 and 1.24.

**Eight threads.** The loss is Python's own: threads that share nothing, each on its own tracker, lose as much when the
interpreter switches between them.

**Many at once.** Up to a third of a call in a gather of 1,000 goes to Python's garbage collector, which examines every
live object once enough have been made: each call in flight keeps 77 objects at OpenRouter, 90 at Gemini and 100 at
OpenAI, 46 of them aiohttp's.

## Profiles

To list the imports and their times:

```text
python -X importtime -c "import llm_connect" 2>&1 | sort -t'|' -k2 -n | tail -20
```

To see where the time of a call goes, with the server of this benchmark:

```text
python benchmarks/performance/profile_call.py openai --budget
```

To see through which files a call goes (`python3 tasks.py ways "call, budget in a file"` prints the whole way):

```text
python3 tasks.py ways
```

For each kind of call and hold it prints the number of files that it enters, and of moves from one file to another. The
fewer both are, the easier it is to follow a call in the code; they say nothing about its time.

For any running program: `py-spy record -o profile.svg --pid PID` (py-spy is not installed with this).
"""


def page(report: Report) -> str:
    """Return the whole page."""
    return _TEXT.format(when=report.when(), table=as_markdown(report.lines()))


def in_readme(text: str, report: Report) -> str:
    """Return the README with new ratios."""
    lines = [_README_HEAD, *((shown, f"{report.ratio(what):.2f}") for what, shown in _README_ROWS.items())]
    return with_table(text, lines)
