"""The table: each measure, its comparison and its target."""

from __future__ import annotations

from measures import Measure, Row

SYNC = Measure.of("sync", count=25, turns=8)
LONG = Measure.of("sync", count=25, work="long", turns=6)
LARGE = Measure.of("sync", count=2, work="megabyte", turns=6)
GATHER = Measure.of("gather", count=1000, delay=50)
SLOW = Measure.of("gather", count=1000, delay=1000)
HUGE = Measure.of("gather", count=5000, delay=50)
MEMORY = Measure.of("memory", before=(HUGE,))
THREADS = Measure.of("threads", count=32, each=40, turns=2)
LOOPS = Measure.of("loops", count=5, each=3)
GROWTH = Measure.of("growth", warm=10_000, count=90_000)
BOUND = Measure.of("bound", work="megabyte")
PROCESS = Measure.of("process", turns=10)
SCRIPT = Measure.of("script")

#: Groups of rows that need neither peers nor minutes.
EVERYDAY = ("import", "cold", "sync", "budget", "gather", "tracker")
_OPENAI, _GEMINI, _OPENROUTER = "ours-openai", "ours-gemini", "ours-openrouter"

ROWS = (
    Row(
        "import",
        "`import llm_connect`, beside asyncio, dataclasses, json, logging",
        "import ours",
        "import stdlib",
        PROCESS,
        1.2,
    ),
    Row(
        "import",
        "the same with `BudgetTracker, LLMAdapter, RunConfig`, which import the core",
        "import core",
        "import stdlib",
        PROCESS,
        1.2,
    ),
    Row("import", "third-party modules that it imports", "modules", None, SCRIPT, 0, "count"),
    Row("cold", "cold process to the first reply, OpenAI", "cold ours-openai", "cold openai", PROCESS, 1.1),
    Row("sync", "sync call, OpenAI", _OPENAI, "openai", SYNC, 0.65),
    Row("sync", "the same, with a long system prompt and options", _OPENAI, "openai", LONG, 0.35),
    Row("sync", "sync call, Gemini", _GEMINI, "google-genai", SYNC, 1.02),
    Row("sync", "sync call, OpenRouter", _OPENROUTER, "httpx2", SYNC, 1.3),
    Row("budget", "budget on, beside the same without", _OPENAI, "ours-openai/without-budget", SYNC, 1.03),
    Row("budget", "a hold by hand around the same without", "hold-by-hand", "ours-openai/without-budget", SYNC, 1.03),
    Row("gather", "gather of 1,000, OpenAI", _OPENAI, "openai", GATHER, 0.30),
    Row("gather", "the same, total time", _OPENAI, "openai", GATHER, 0.30, "wall"),
    Row("gather", "gather of 1,000, Gemini", _GEMINI, "google-genai-as-it-comes", GATHER, 0.75),
    Row("gather", "the same, total time", _GEMINI, "google-genai-as-it-comes", GATHER, 0.75, "wall"),
    Row("gather", "gather of 1,000, Gemini, beside google-genai on aiohttp", _GEMINI, "google-genai", GATHER, 0.75),
    Row("gather", "gather of 1,000, OpenRouter", _OPENROUTER, "aiohttp", GATHER, 3.0),
    Row("gather", "the same, total time", _OPENROUTER, "aiohttp", GATHER, 3.0, "wall"),
    *(
        Row("gather", f"gather of 1,000 on a server of 1 s, {shown}{what}", ours, None, SLOW, must, value, unit=unit)
        for ours, shown in ((_OPENAI, "OpenAI"), (_GEMINI, "Gemini"), (_OPENROUTER, "OpenRouter"))
        for what, must, value, unit in (("", 1.8, "wall", "s"), (", errors", 0, "errors", ""))
    ),
    Row("huge", "gather of 5,000 with one tracker, errors", _OPENAI, None, HUGE, 0, "errors"),
    Row("huge", "the same, peak memory", _OPENAI, "openai", MEMORY, 0.6, "peak"),
    Row("threads", "32 threads, time for the same calls", _OPENAI, "openai", THREADS, 1 / 1.5, "wall"),
    Row("threads", "32 threads, errors", _OPENAI, None, THREADS, 0, "errors"),
    Row("peers", "sync call, beside aisuite", _OPENAI, "aisuite", SYNC, 0.7),
    Row("peers", "sync call, beside LangChain", _OPENAI, "langchain", SYNC, 0.55),
    Row("peers", "sync call, beside LiteLLM", _OPENAI, "litellm", SYNC, 0.3),
    Row("peers", "gather of 1,000, beside LiteLLM", _OPENAI, "litellm", GATHER, 0.35),
    Row("peers", "gather of 1,000, beside pydantic-ai", _OPENAI, "pydantic-ai", GATHER, 0.25),
    Row("loops", "five `asyncio.run` of three calls, answers", _OPENAI, None, LOOPS, 15, "answered", least=True),
    Row("tracker", "the tracker alone, calls booked a second", "tracker", None, SCRIPT, 300_000, "flat", least=True),
    Row("tracker", "the same, on a chain of three", "tracker", None, SCRIPT, 200_000, "chain", least=True),
    Row(
        "tracker",
        "a tracker that keeps every promise, in three functions",
        "tracker",
        None,
        SCRIPT,
        300_000,
        "inlined",
        least=True,
    ),
    Row("tracker", "the same, on a chain of three", "tracker", None, SCRIPT, 200_000, "inlined_chain", least=True),
    Row("tracker", "the least that books a call", "tracker", None, SCRIPT, 300_000, "bare", least=True),
    Row("tracker", "a booking, in calls of an empty method", "tracker", None, SCRIPT, 222, "empty_calls"),
    Row("tracker", "8 threads in total, beside one", "tracker", None, SCRIPT, 1.0, "eight_threads", least=True),
    Row("tracker", "the same, each on a tracker of its own", "tracker", None, SCRIPT, 1.0, "eight_apart", least=True),
    Row("tracker", "10,000 waiting callers let in", "tracker", None, SCRIPT, 1.0, "seconds", unit="s"),
    Row("tracker", "the same, in order", "tracker", None, SCRIPT, 1, "in_order", least=True),
    Row("tracker", "the same, threads", "tracker", None, SCRIPT, 1, "threads"),
    Row("claude", "the Claude adapter, beside the same binary bare, time", "claude", None, SCRIPT, 1.05, "one"),
    Row("claude", "the same, 16 at once", "claude", None, SCRIPT, 1.05, "sixteen"),
    Row("large", "a prompt of 1 MB, OpenAI", _OPENAI, "openai", LARGE, 1.2),
    Row("large", "its bound", _OPENAI, None, BOUND, 0.001, unit="s"),
    Row("growth", "90,000 calls after 10,000, memory", _OPENAI, None, GROWTH, 5, "grown", unit="MB"),
    Row("floor", "the openai SDK's `post` alone, sync", "openai-post", "openai", SYNC, 0.65),
    Row("floor", "the same, with a long system prompt and options", "openai-post", "openai", LONG, 0.35),
    Row("floor", "the same, gather of 1,000", "openai-post", "openai", GATHER, 0.30),
)
