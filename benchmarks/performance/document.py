"""docs/performance.md, and the README's share of it."""

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

What does it cost to call through llm-connect, with a budget, beside the SDK alone and beside others? The server is one
on loopback that answers without looking, so that what is left is the client's own work. The figures are ratios of
CPU time for one call unless they say otherwise, each ours / the other's, and the smaller the better. In each round
the contenders take turns of some calls each; a ratio is of two turns that follow each other. "is" is the median,
"spread" the middle half of all turns, "ours" our own CPU for one call.

{when}

{table}

## How to repeat it

```sh
python3 tasks.py performance --everyday
python3 tasks.py performance
```

The first command measures ours and the raw SDKs, within two or three minutes, and writes nothing. The second one
installs the peers, in virtual environments in your cache folder, measures everything in about half an hour, and writes
this page, the README's three ratios, and [results.json](../benchmarks/performance/results.json) with every single
figure. `--python` chooses the interpreter, `--only` groups of rows. Ratios within a table are comparable; microseconds
depend on the machine and on what else runs on it. Total times need a machine with two idle processors.

## What stands against lower figures

**Import.** No third-party module is imported. Half of what is added are the dataclasses of the core, whose methods are
generated when they are imported; a fifth is `typing`, which the comparison does not have.

**A long system prompt and options.** The raw SDK's time grows with the parameters that it checks, ours does not. But we
send through the SDK's low-level `post`, which is the floor, and stands in the table: it checks nothing, yet builds its
options, headers and address anew for each call. Going below it would mean to send past the SDK, without its refreshed
keys, its clients for Azure and its headers. A prototype that did so, httpx2 with the SDK's headers, stood at 0.30.

**Budget on against off.** Of what a budget adds to a call, two fifths are its upper bound (rendering the request,
measuring its texts), a quarter the hold itself (reserve, dispatch, settle, entry), and the rest the terms on which it
is asked for. All of it runs once for each call and is cold in the processor's caches by then, so it counts two to
three times what a loop over the tracker alone shows.

A hold by hand, on a bound that is known already, is the floor of a budget, and stands in the table.

**The tracker alone.** Where an empty method takes 15 ns, 300,000 bookings a second are 222 of those for each booking;
the table has both. Its floor stands in the table, too: a tracker that keeps every promise, written into three functions
without any structure (`benchmarks/performance/inlined_tracker.py`). It checks figures, looks for waiting calls, closed
budgets and lessons, walks the path to the root, remembers whose hold it is, so that nobody waits for himself, and
notices when one is lost. What it costs to have these in functions of their own, which others use as well, is the
difference to ours. The least that books a call (one lock, taken three times; three units, a hold, its entry, totals)
keeps none of those promises but the cap.

**Gemini beside google-genai on aiohttp.** Where aiohttp is installed, the SDK calls it directly, without the options
that we need: it follows redirects, trusts other certificates, and repeats a request by itself. Ours goes through the
SDK's `request` and a client of httpx2 on aiohttp; in several runs it stood between 0.70 and 0.78. The SDK's `request`
alone, on its own aiohttp, stood at 0.47.

**Total times.** They depend on what else the machine does, and ours did other work meanwhile: in several runs the
Claude adapter stood between 1.01 and 1.07, and eight threads on one tracker between 0.91 and 1.24.

**Eight threads.** What they lose is Python's: threads that share nothing, each on a tracker of its own, lose as much
when the interpreter goes from one to the next.

**Many at once.** Up to a third of a call in a gather of 1,000 is Python's garbage collector, which looks at everything
that is alive once enough has come: each call under way keeps 77 objects at OpenRouter, 90 at Gemini and 100 at OpenAI,
of which aiohttp has 46.

## Profiles

What is imported, and how long it takes:

```text
python -X importtime -c "import llm_connect" 2>&1 | sort -t'|' -k2 -n | tail -20
```

Where the time of a call goes, with the server of this benchmark:

```text
python benchmarks/performance/profile_call.py openai --budget
```

The same for any program, while it runs: `py-spy record -o profile.svg --pid PID` (py-spy is not installed with this).
"""


def page(report: Report) -> str:
    """The whole page."""
    return _TEXT.format(when=report.when(), table=as_markdown(report.lines()))


def in_readme(text: str, report: Report) -> str:
    """The README with its ratios made anew."""
    lines = [_README_HEAD, *((shown, f"{report.ratio(what):.2f}") for what, shown in _README_ROWS.items())]
    return with_table(text, lines)
