"""The table: each measure, its comparison and its target."""

from __future__ import annotations

from measures import Measure, Row

FIRST, AFIRST = (Measure.of("first", count=25, turns=6, awaited=awaited) for awaited in (False, True))
READ, AREAD = (Measure.of("read", chunks=2000, turns=6, awaited=awaited) for awaited in (False, True))
PACED, APACED = (Measure.of("read", chunks=250, pace=1, turns=3, awaited=awaited) for awaited in (False, True))
LEFT = Measure.of("leave", count=20)
ALEFT = Measure.of("leave", count=200, awaited=True)
SCRIPT = Measure.of("script")

#: Ours, what it is compared with, and the most: as slow as an SDK, or twice as slow as a bare client whose lines are
#: read by hand, without looking for errors, usage or an end.
_PAIRS = (
    ("OpenAI", "ours-openai", "openai", 1.0),
    ("Gemini", "ours-gemini", "google-genai", 1.0),
    ("OpenRouter", "ours-openrouter", "httpx2", 2.0),
)
_WITHOUT = "ours-openai/without-budget"


def _beside(group: str, what: str, measure: Measure, ameasure: Measure, value: str) -> list[Row]:
    return [
        Row(group, f"{what}, {form}, {shown}", ours, raw, measured, must, value)
        for shown, ours, raw, must in _PAIRS
        for form, measured in (("sync", measure), ("async", ameasure))
    ]


def _left(what: str, measure: Measure) -> list[Row]:
    title = "from leaving to the closed socket"
    return [
        Row("left", f"{title}, {what}, {shown}", ours, None, measure, 0.1, "seconds", unit="s")
        for shown, ours, _, _ in _PAIRS
    ]


ROWS = (
    *_beside("first", "time to the first text", FIRST, AFIRST, "wall"),
    *_beside("read", "a chunk of many at once", READ, AREAD, "cpu"),
    *_beside("paced", "a chunk that comes alone", PACED, APACED, "cpu"),
    Row("budget", "a chunk with a budget, beside the same without", "ours-openai", _WITHOUT, READ, 1.03),
    *_left("the slowest of 20", LEFT),
    *_left("the slowest of 200 at once", ALEFT),
    Row(
        "claude",
        "time to the first text, Claude Code, beside the same binary bare",
        "claude",
        None,
        SCRIPT,
        1.05,
        "first",
    ),
    Row("claude", "from leaving to the closed socket, Claude Code", "claude", None, SCRIPT, 0.1, "left", unit="s"),
)
