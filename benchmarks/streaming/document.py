"""Writes docs/streaming-performance.md."""

from __future__ import annotations

from report import Report, as_markdown

_TEXT = """\
# What a stream costs

This page compares the cost of a stream through llm-connect, with a budget, with the raw SDK. The server runs on
loopback and streams the same bytes to all, so only the client's own work remains. The figures are ratios, ours / the
other's; smaller is better. Those of a chunk are CPU time, those of the first text the time from the call to the text.
OpenRouter has no SDK to compare with: the other is a bare httpx2 client that reads lines by hand and checks for no
errors, usage or end. In each round the contenders take turns, and a ratio compares two consecutive turns. "is" is the
median, "spread" the middle half of all turns, "ours" our own CPU time per chunk.

{when}

{table}

"From leaving to the closed socket" is the time from the end of the block until the server sees the connection close; of
200 at once, one event loop leaves them all. "Many at once" are 2,000 chunks that arrive as fast as the client can read
them, "alone" is one each millisecond. The fixed costs of an answer, such as the hold and its ledger entry, are in the
time to the first text.

## How to repeat it

```sh
python3 tasks.py streaming
```

It takes four or five minutes, and writes this page and [results.json](../benchmarks/streaming/results.json) with
every single figure. `--only` measures groups of rows and writes nothing. Ratios within a table are comparable;
microseconds depend on the machine and its other load.
"""


def page(report: Report) -> str:
    """Return the whole page."""
    return _TEXT.format(when=report.when(), table=as_markdown(report.lines()))
