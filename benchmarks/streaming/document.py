"""docs/streaming-performance.md."""

from __future__ import annotations

from report import Report, as_markdown

_TEXT = """\
# What a stream costs

What does it cost to stream through llm-connect, with a budget, beside the raw SDK? The server is one on loopback that
streams the same bytes to all, so that what is left is the client's own work. The figures are ratios, each ours / the
other's, and the smaller the better; those of a chunk are CPU time, those of the first text the time from asking to it.
OpenRouter has no SDK that is measured: the other is a bare httpx2 client whose lines are read by hand, without looking
for errors, usage or an end. In each round the contenders take turns; a ratio is of two turns that follow each other.
"is" is the median, "spread" the middle half of all turns, "ours" our own CPU for one chunk.

{when}

{table}

"From leaving to the closed socket" is how long after the end of the block the server sees that the connection is
closed; of 200 at once, all are left by one event loop. "Many at once" are 2,000 chunks that come as fast as they can be
read, "alone" is one each millisecond. What is the same per answer, such as the hold and its entry in the ledger, is in
the time to the first text.

## How to repeat it

```sh
python3 tasks.py streaming
```

It takes four or five minutes, and writes this page and [results.json](../benchmarks/streaming/results.json) with
every single figure. `--only` measures groups of rows and writes nothing. Ratios within a table are comparable;
microseconds depend on the machine and on what else runs on it.
"""


def page(report: Report) -> str:
    """The whole page."""
    return _TEXT.format(when=report.when(), table=as_markdown(report.lines()))
