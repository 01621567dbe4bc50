"""What a provider says of its tokens, and what is believed of it: one rule for every format, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_connect import Usage
from llm_connect.protocols import chat_completions, claude_cli, generate_content, responses
from llm_connect.protocols.openrouter_replies import cost_in
from llm_connect.protocols.stream_reading import EventReading
from llm_connect.protocols.usage_figures import figure, usd_figure
from llm_connect.protocols.wire import Answer, Failure, Reply
from llm_connect.types.usage import MOST_TOKENS

TEXT = "Hello there, this is an answer."
#: A number that JSON may hold and Python does not read by itself.
HUGE = "9" * 5_000
TOO_MANY = MOST_TOKENS + 1
FUZZED = settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

#: How each format names prompt, completion, total, cached, cache write and reasoning tokens; "" where it has no such
#: figure. A name with a point is that of a figure within an object.
NAMES = {
    "chat": (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details.cached_tokens",
        "prompt_tokens_details.cache_write_tokens",
        "completion_tokens_details.reasoning_tokens",
    ),
    "responses": (
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "input_tokens_details.cached_tokens",
        "input_tokens_details.cache_write_tokens",
        "output_tokens_details.reasoning_tokens",
    ),
    "gemini": (
        "promptTokenCount",
        "candidatesTokenCount",
        "totalTokenCount",
        "cachedContentTokenCount",
        "",
        "thoughtsTokenCount",
    ),
}
each_format = pytest.mark.parametrize("wire", NAMES)
each_form = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def account(wire: str, **said: Any) -> dict[str, Any]:
    """Figures by the names of a format."""
    order = ("prompt", "completion", "total", "cached", "cache_write", "reasoning")
    made: dict[str, Any] = {}
    for name, value in said.items():
        outer, _, inner = NAMES[wire][order.index(name)].partition(".")
        if inner:
            made.setdefault(outer, {})[inner] = value
        elif outer:
            made[outer] = value
    return made


def body(wire: str, usage: Any, text: str = TEXT) -> dict[str, Any]:
    """A good reply."""
    if wire == "chat":
        message: dict[str, Any] = {"role": "assistant", "content": text}
        return {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    if wire == "responses":
        message = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        return {"model": "m", "status": "completed", "output": [message], "usage": usage}
    candidate = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    return {"modelVersion": "m", "candidates": [candidate], "usageMetadata": usage}


def events(wire: str, usage: Any) -> list[dict[str, Any]]:
    """The same reply as a stream, whose figures come last."""
    if wire == "chat":
        return [
            {"choices": [{"delta": {"role": "assistant", "content": TEXT}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ]
    if wire == "responses":
        return [
            {"type": "response.output_text.delta", "delta": TEXT},
            {"type": "response.completed", "response": body(wire, usage)},
        ]
    return [{"candidates": [{"content": {"parts": [{"text": TEXT}]}}]}, body(wire, usage, text="")]


PARSE: dict[str, Callable[[Reply], Answer | Failure]] = {
    "chat": chat_completions.parse,
    "responses": responses.parse,
    "gemini": generate_content.parse,
}
ASSEMBLY: dict[str, Any] = {
    "chat": chat_completions.StreamAssembly,
    "responses": responses.StreamAssembly,
    "gemini": generate_content.StreamAssembly,
}


def read_whole(wire: str, reply: str) -> Answer:
    answer = PARSE[wire](Reply(200, {}, reply.encode()))
    assert isinstance(answer, Answer)
    return answer


def read_stream(wire: str, *said: str) -> Answer:
    reading = EventReading(ASSEMBLY[wire]())
    texts = reading.feed("".join(f"data: {event}\n\n" for event in said).encode()) + reading.end()
    assert "".join(texts) == TEXT
    return read_whole(wire, reading.body.decode())


def read(wire: str, usage: Any, *, streamed: bool = False) -> Answer:
    """What an answer with such a usage says. `HUGE` in it is written as a number."""

    def written(value: Any) -> str:
        return json.dumps(value).replace(f'"{HUGE}"', HUGE)

    answer = (
        read_stream(wire, *map(written, events(wire, usage)))
        if streamed
        else read_whole(wire, written(body(wire, usage)))
    )
    assert answer.content == TEXT
    return answer


@each_form
@each_format
@pytest.mark.parametrize(
    "said",
    [
        {"prompt": 0, "completion": 0, "total": 0},
        {"prompt": 0, "completion": 0},
        {"prompt": 0, "completion": 7, "total": 7},
        {"prompt": 10, "completion": 0, "total": 10},
        {"prompt": 10, "completion": 0},
        {"prompt": 10, "completion": -1, "total": 9},
        {"prompt": 10},
        {"prompt": 10, "total": 10},
        {"total": 12},
        {"prompt": 10, "completion": None, "total": None},
        {"prompt": None, "completion": 7},
        {"prompt": True, "completion": True, "total": True},
        {"prompt": 10, "completion": 7.5},
        {"prompt": [10], "completion": {"tokens": 7}},
        {"prompt": "ten", "completion": "7 tokens"},
        {"prompt": 1e308, "completion": 1},
        {"prompt": 10, "completion": TOO_MANY},
        {"prompt": 2**63, "completion": 2**53},
        {"prompt": HUGE, "completion": HUGE},
        {"prompt": 10, "completion": HUGE, "total": HUGE},
        {"prompt": float("nan"), "completion": float("inf")},
        {"prompt": 50, "completion": 7, "total": 20},
    ],
    ids=str,
)
def test_what_cannot_be_true_is_not_known(wire: str, streamed: bool, said: dict[str, Any]) -> None:
    """No input, no output beside text, or a figure that is none: the answer comes, and its usage is not known.
    (WIRE-8, WIRE-31)"""
    assert read(wire, account(wire, **said), streamed=streamed).usage is None


@each_form
@each_format
@pytest.mark.parametrize("usage", [None, {}, [], 5, "x", False])
def test_a_reply_may_say_nothing(wire: str, streamed: bool, usage: Any) -> None:
    """What is no account of tokens says nothing, and does not harm the answer. (WIRE-8)"""
    answer = read(wire, usage, streamed=streamed)
    assert (answer.usage, answer.used_at_least) == (None, None)


@each_form
@each_format
@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"prompt": "10", "completion": "7", "total": "17"}, (10, 7)),
        ({"prompt": 10.0, "completion": 7.0, "total": 17.0}, (10, 7)),
        ({"prompt": " 10 ", "completion": "7.0"}, (10, 7)),
        ({"prompt": 10, "completion": 7, "total": 0}, (10, 7)),
        ({"prompt": 10, "completion": 7, "total": HUGE}, (10, 7)),
        ({"prompt": 10, "completion": 7, "total": -3}, (10, 7)),
        ({"prompt": 10, "completion": 0, "total": 17}, (10, 7)),
        ({"prompt": 10, "completion": "?", "total": 17}, (10, 7)),
        ({"prompt": 10, "completion": 100, "total": 60}, (10, 50)),
        ({"prompt": 10, "completion": 110, "total": 110}, (10, 100)),
        ({"prompt": MOST_TOKENS // 2, "completion": 7}, (MOST_TOKENS // 2, 7)),
    ],
    ids=str,
)
def test_every_way_to_write_a_figure_is_read(
    wire: str, streamed: bool, said: dict[str, Any], wanted: tuple[int, int]
) -> None:
    """As text, with a point, or told by the total alone; the total goes before its parts. (WIRE-8, WIRE-32)"""
    usage = read(wire, account(wire, **said), streamed=streamed).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == wanted


@each_format
def test_parts_are_clipped_to_their_whole(wire: str) -> None:
    """Cached tokens that are told twice, as read and as written, do not enlarge the prompt. (WIRE-32)"""
    said = {"prompt": 2_168, "completion": 12, "cached": 2_161, "cache_write": 2_161}
    for total in ({}, {"total": 2_180}):
        usage = read(wire, account(wire, **said, **total)).usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (2_168, 12)
        assert usage.cached_tokens + usage.cache_write_tokens <= 2_168
        assert wire == "gemini" or usage.cache_write_tokens == 2_161


@each_format
def test_the_total_tells_whether_a_cache_is_within_the_prompt(wire: str) -> None:
    """A cache that the total counts beside the prompt is input, too; one that it does not is clipped. (WIRE-32)"""
    said = {"prompt": 7, "completion": 5, "cached": 2_161}
    beside = read(wire, account(wire, **said, total=2_173)).usage
    assert beside == Usage(prompt_tokens=2_168, completion_tokens=5, cached_tokens=2_161)
    assert read(wire, account(wire, **said)).usage == beside
    within = read(wire, account(wire, **said, total=12)).usage
    assert within == Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=7)


@pytest.mark.parametrize(
    ("total", "written"), [({"total": 17}, 7), ({"total": 67}, 57), ({"total": 60}, 50), ({}, 57)], ids=str
)
@pytest.mark.parametrize("wire", ["chat", "responses"])
def test_the_total_tells_whether_thinking_is_within_the_output(wire: str, total: dict[str, int], written: int) -> None:
    """Servers that leave thinking out of the output, but not out of the total, are booked in full. (WIRE-32)"""
    usage = read(wire, account(wire, prompt=10, completion=7, reasoning=50, **total)).usage
    assert usage is not None
    assert (usage.completion_tokens, usage.reasoning_tokens) == (written, min(50, written))


@pytest.mark.parametrize(
    ("total", "tools", "wanted"),
    [
        (110, 0, (10, 100)),
        (170, 0, (10, 160)),
        (115, 5, (15, 100)),
        (175, 5, (15, 160)),
        (170, 5, (10, 160)),
        (None, 5, (15, 160)),
        (200, 5, (15, 185)),
        (12, 5, (10, 2)),
    ],
)
def test_geminis_total_tells_what_its_parts_contain(total: int | None, tools: int, wanted: tuple[int, int]) -> None:
    """Candidates with thoughts or without, a prompt with the input of tools or without: as they add up. (WIRE-32)"""
    said = {"promptTokenCount": 10, "candidatesTokenCount": 100, "thoughtsTokenCount": 60}
    usage = read("gemini", said | {"toolUsePromptTokenCount": tools, "totalTokenCount": total}).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == wanted


@pytest.mark.parametrize(
    "place",
    [
        lambda usage: {"choices": [{"usage": usage}]},
        lambda usage: {"x_groq": {"id": "r", "usage": usage}},
        lambda usage: {"usage": None, "x_groq": {"usage": usage}},
        lambda usage: {"usage": {"total_tokens": 0}, "choices": [{"usage": usage}]},
    ],
    ids=["choice", "groq", "groq, null", "choice, zero"],
)
def test_figures_are_read_where_servers_put_them(place: Callable[[Any], dict[str, Any]]) -> None:
    """In a choice (Moonshot) or in a field of its own (Groq), in a whole reply and in the last chunk. (WIRE-8)"""
    said = place(account("chat", prompt=10, completion=7, total=17))
    whole = body("chat", None)
    choice = whole["choices"][0] | said.get("choices", [{}])[0]
    in_whole = read_whole("chat", json.dumps({**whole, **said, "choices": [choice]}))
    last = {"choices": [{"delta": {}, "finish_reason": "stop", **said.get("choices", [{}])[0]}]}
    in_stream = read_stream("chat", json.dumps(events("chat", None)[0]), json.dumps({**said, **last}))
    for answer in (in_whole, in_stream):
        assert answer.usage == Usage(prompt_tokens=10, completion_tokens=7)


def gemini(text: str, usage: Any, **candidate: Any) -> dict[str, Any]:
    parts = [{"text": text}] if text else []
    return {"candidates": [{"content": {"parts": parts}, **candidate}], "usageMetadata": usage}


def chat(text: str, usage: Any, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, **choice}], "usage": usage}


CHUNK: dict[str, Any] = {"chat": chat, "gemini": gemini}
FINISH = {"chat": {"finish_reason": "stop"}, "gemini": {"finishReason": "STOP"}}
each_stream = pytest.mark.parametrize("wire", CHUNK)


@each_stream
@pytest.mark.parametrize(
    "last",
    [
        {"prompt": 0, "completion": 0, "total": 0},
        {"prompt": None, "completion": None, "total": None},
        {"prompt": 10},
        {"prompt": 10, "completion": -1, "total": 9},
        {"prompt": 1e308, "completion": HUGE, "total": 2**63},
        {"prompt": "x", "completion": [], "total": {}},
        {"prompt": 3, "completion": 1, "total": 4},
    ],
    ids=str,
)
def test_a_later_chunk_takes_nothing_back(wire: str, last: dict[str, Any]) -> None:
    """Zeros, gaps and nonsense after real figures leave them as they are. (WIRE-33)"""
    make, good = CHUNK[wire], account(wire, prompt=10, completion=7, total=17)
    said = [make(TEXT, None), make("", good, **FINISH[wire]), make("", account(wire, **last))]
    answer = read_stream(wire, *(json.dumps(event).replace(f'"{HUGE}"', HUGE) for event in said))
    assert answer.usage == Usage(prompt_tokens=10, completion_tokens=7)


@each_stream
def test_figures_one_chunk_before_the_finish_are_read(wire: str) -> None:
    """With the last text, or after it, they are those of the whole answer, wherever the finish is told. (WIRE-33)"""
    make, good = CHUNK[wire], account(wire, prompt=10, completion=7, total=17)
    for said in (
        [make(TEXT, good), make("", None, **FINISH[wire])],
        [make(TEXT, None), make("", good), make("", None, **FINISH[wire])],
        [make(TEXT[:5], account(wire, prompt=10, completion=1)), make(TEXT[5:], good), make("", None, **FINISH[wire])],
    ):
        assert read_stream(wire, *map(json.dumps, said)).usage == Usage(prompt_tokens=10, completion_tokens=7)


@each_stream
def test_figures_may_come_in_parts(wire: str) -> None:
    """Input in the first chunk and output in the last one are one usage. (WIRE-33)"""
    make = CHUNK[wire]
    said = [make("", account(wire, prompt=10, completion=1)), make(TEXT, None), make("", None, **FINISH[wire])]
    said.append(make("", account(wire, completion=7)))
    assert read_stream(wire, *map(json.dumps, said)).usage == Usage(prompt_tokens=10, completion_tokens=7)


@each_stream
@pytest.mark.parametrize("odd", [{}, {"total": None}, {"total": 0}, {"total": -1}, {"total": "n/a"}], ids=str)
@pytest.mark.parametrize("parts", [{"completion": 500}, {"prompt": 10, "completion": 500}], ids=str)
def test_a_total_that_was_told_too_early_is_not_believed(wire: str, parts: dict[str, Any], odd: dict[str, Any]) -> None:
    """Running figures: a total of the first chunk says nothing of an output that the last chunk tells. (WIRE-33)"""
    make = CHUNK[wire]
    said = [make(TEXT[:5], account(wire, prompt=10, completion=1, total=11)), make(TEXT[5:], None, **FINISH[wire])]
    said.append(make("", account(wire, **parts, **odd)))
    assert read_stream(wire, *map(json.dumps, said)).usage == Usage(prompt_tokens=10, completion_tokens=500)


@each_stream
@pytest.mark.parametrize(("total", "written"), [(11, 500), (530, 520)])
def test_a_total_that_comes_alone_counts_where_it_covers_the_parts(wire: str, total: int, written: int) -> None:
    """One that is less than the parts of another chunk is no total of theirs; one that is more has more output."""
    make = CHUNK[wire]
    said = [make(TEXT, account(wire, prompt=10, completion=500)), make("", None, **FINISH[wire])]
    said.append(make("", account(wire, total=total)))
    assert read_stream(wire, *map(json.dumps, said)).usage == Usage(prompt_tokens=10, completion_tokens=written)


@each_stream
@pytest.mark.parametrize("last", [None, {"prompt": 0, "completion": 0, "total": 0}, {"prompt": 10}], ids=str)
def test_figures_before_the_last_text_are_the_least_that_was_used(wire: str, last: dict[str, Any] | None) -> None:
    """Text that came after the last good figures is not in them: they are no usage, but so much was used. (WIRE-33)"""
    make = CHUNK[wire]
    said = [make(TEXT[:5], account(wire, prompt=10, completion=7, total=17)), make(TEXT[5:], None, **FINISH[wire])]
    said += [] if last is None else [make("", account(wire, **last))]
    answer = read_stream(wire, *map(json.dumps, said))
    assert answer.usage is None
    assert answer.used_at_least is not None
    assert (answer.used_at_least.prompt_tokens, answer.used_at_least.completion_tokens) == (10, 7)


NOTHING_WRITTEN: dict[str, dict[str, Any]] = {
    "chat": {"choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]},
    "responses": {"status": "completed", "output": []},
    "gemini": {"promptFeedback": {"blockReason": "SAFETY"}},
}
WRITTEN: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"choices": [{"message": {"content": None, "tool_calls": [{"id": "c"}]}, "finish_reason": "tool_calls"}]},
        {"choices": [{"message": {"content": "", "reasoning_content": "hm"}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "", "refusal": "No."}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]},
        {"choices": [{"message": {"content": ""}, "finish_reason": "max_tokens"}]},
        {"choices": [{"message": {"content": ""}, "finish_reason": "model_length"}]},
    ],
    "responses": [
        {"status": "completed", "output": [{"type": "function_call", "name": "f"}]},
        {"status": "completed", "output": [{"type": "reasoning", "summary": []}]},
        {"status": "completed", "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]},
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
    ],
    "gemini": [
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}, "finishReason": "STOP"}]},
        {"candidates": [{"finishReason": "MAX_TOKENS"}]},
    ],
}


@each_format
def test_no_output_can_be_true_where_nothing_was_written(wire: str) -> None:
    """An empty or a blocked answer may have no output tokens, but never no input tokens. (WIRE-31)"""
    key = "usageMetadata" if wire == "gemini" else "usage"
    reply = NOTHING_WRITTEN[wire] | {key: account(wire, prompt=9, completion=0, total=9)}
    assert read_whole(wire, json.dumps(reply)).usage == Usage(prompt_tokens=9, completion_tokens=0)
    reply[key] = account(wire, prompt=0, completion=0, total=0)
    assert read_whole(wire, json.dumps(reply)).usage is None


@pytest.mark.parametrize(("wire", "reply"), [(wire, reply) for wire in WRITTEN for reply in WRITTEN[wire]], ids=str)
def test_no_output_beside_calls_thinking_or_a_full_limit_is_not_known(wire: str, reply: dict[str, Any]) -> None:
    """Text is not the only thing that is output. (WIRE-31)"""
    key = "usageMetadata" if wire == "gemini" else "usage"
    said = read_whole(wire, json.dumps(reply | {key: account(wire, prompt=9, completion=0, total=9)}))
    assert (said.usage, said.used_at_least and said.used_at_least.prompt_tokens) == (None, 9)


@pytest.mark.parametrize("wire", ["chat", "gemini"])
def test_calls_and_thinking_in_a_stream_are_output(wire: str) -> None:
    """A stream without text, but with a call or with thinking, has used output. (WIRE-31)"""
    written: dict[str, list[Any]] = {
        "chat": [{"tool_calls": [{"index": 0, "id": "c"}]}, {"reasoning_content": "hm"}],
        "gemini": [{"functionCall": {"name": "f"}}, {"text": "hm", "thought": True}],
    }
    for part in written[wire]:
        reading = EventReading(ASSEMBLY[wire]())
        first = {"choices": [{"delta": part}]} if wire == "chat" else {"candidates": [{"content": {"parts": [part]}}]}
        last = CHUNK[wire]("", account(wire, prompt=9, completion=0, total=9), **FINISH[wire])
        for event in (first, last):
            assert reading.feed(f"data: {json.dumps(event)}\n\n".encode()) == []
        assert read_whole(wire, reading.body.decode()).usage is None


NO_COST: list[Any] = [None, True, -1, "abc", "NaN", "Infinity", [], "1e999999", 1e300]


@pytest.mark.parametrize(
    ("usage", "model", "cost"),
    [
        ({"cost": 0.5}, "m", "0.5"),
        ({"cost": "0.002"}, "m", "0.002"),
        ({"cost": 4e-05}, "m", "0.00004"),
        ({"cost": 0}, "m", None),
        ({"cost": 0.0}, "m:free", "0"),
        ({"cost": 0, "is_byok": True}, "m", None),
        ({"cost": 0.001, "is_byok": True}, "m", None),
        ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0}}, "m", None),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}, "m", "0.02"),
        ({"cost": 0, "cost_details": {"upstream_inference_cost": 0.02}}, "m", "0.02"),
        ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}, "m", "0.021"),
        ({"cost": 0.001, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.02}}, "m", "0.001"),
        *(({"cost": wrong}, "m", None) for wrong in NO_COST),
        ({"cost": HUGE}, "m", None),
    ],
    ids=str,
)
def test_the_cost_of_openrouter_is_read(usage: dict[str, Any], model: str, cost: str | None) -> None:
    """By its text, with the upstream price for an own key; 0 only of a model that is free. (MODEL-3, WIRE-12)"""
    reply = json.dumps(body("chat", usage) | {"model": model}).replace(f'"{HUGE}"', HUGE).encode()
    answer = chat_completions.parse(Reply(200, {}, reply), cost_in)
    assert isinstance(answer, Answer)
    assert answer.cost == (None if cost is None else Decimal(cost))
    assert answer.cost_source == (None if cost is None else "provider")


def test_what_a_failure_cost_is_read() -> None:
    """An error under 200 that tells usage and cost has both. (WIRE-12)"""
    usage = account("chat", prompt=5, completion=1) | {"cost": 0.5}
    failed = chat_completions.parse(
        Reply(200, {}, json.dumps({"error": {"code": 502}, "usage": usage}).encode()), cost_in
    )
    assert isinstance(failed, Failure)
    assert (failed.usage, failed.cost) == (Usage(prompt_tokens=5, completion_tokens=1), Decimal("0.5"))


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        ({"input_tokens": "10", "output_tokens": 7.0}, (10, 7)),
        ({"input_tokens": 10, "output_tokens": 0}, None),
        ({"input_tokens": 0, "output_tokens": 7}, None),
        ({"input_tokens": HUGE, "output_tokens": 7}, None),
        ({"input_tokens": 3, "cache_read_input_tokens": 20, "output_tokens": 7}, (23, 7)),
    ],
    ids=str,
)
def test_the_claude_command_is_believed_no_more(usage: dict[str, Any], wanted: tuple[int, int] | None) -> None:
    """The figures of its last line are read by the same rule. (WIRE-31)"""
    message = {"model": "m", "content": [{"type": "text", "text": TEXT}]}
    result = {"type": "result", "terminal_reason": "completed", "stop_reason": "end_turn", "usage": usage}
    lines = [{"type": "assistant", "message": message}, result]
    printed = "\n".join(map(json.dumps, lines)).replace(f'"{HUGE}"', HUGE).encode()
    answer = claude_cli.parse(Reply(0, {}, printed))
    assert isinstance(answer, Answer)
    assert answer.content == TEXT
    assert wanted == (answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens))


# What follows puts any JSON in place of any figure.

odd = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    | st.just(HUGE)
)
likely = st.integers(0, 60) | st.integers(0, 60).map(float) | st.integers(0, 60).map(str)
any_figure = likely | odd
any_said = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("prompt", "completion", "total", "cached", "cache_write", "reasoning"), any_figure)
)


def number(value: Any) -> int:
    """The figure that `value` is; 0 for one that says nothing. Written apart from the code that is tested."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        exact = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    except (InvalidOperation, ValueError):
        return 0
    fits = exact.is_finite() and exact == exact.to_integral_value() and 0 <= exact <= MOST_TOKENS
    return int(exact) if fits and "e" not in str(value) and "E" not in str(value).replace("e", "") else 0


def check_usage(usage: Usage) -> None:
    assert usage.prompt_tokens >= 1
    assert usage.completion_tokens >= 1
    assert usage.cached_tokens + usage.cache_write_tokens <= usage.prompt_tokens
    assert usage.reasoning_tokens <= usage.completion_tokens
    assert all(type(value) is int and value >= 0 for name, value in usage.to_dict().items() if name != "estimated")


@each_form
@each_format
@FUZZED
@given(said=any_said)
def test_whatever_stands_for_a_figure_the_answer_comes(wire: str, streamed: bool, said: dict[str, Any]) -> None:
    """The answer is never lost; its usage keeps its form, is never below its own figures, and never above the
    provider's own total. (WIRE-8, WIRE-31, WIRE-32)"""
    answer = read(wire, account(wire, **said), streamed=streamed)
    sent, written, total = (number(said.get(name)) for name in ("prompt", "completion", "total"))
    usage = answer.usage
    if usage is None:
        known = answer.used_at_least
        assert (known.total_tokens if known else 0) >= (total or sent + written)
        return
    check_usage(usage)
    assert usage.total_tokens == total if total else usage.total_tokens >= sent + written
    assert sent or (total and said.keys() & {"cached", "cache_write"})


@given(value=odd | st.integers(-5, 2 * MOST_TOKENS))
def test_a_figure_is_a_number_of_tokens(value: Any) -> None:
    """Whatever is read as one is a whole number that a call can have."""
    read_as = figure(value)
    assert read_as is None or (type(read_as) is int and 0 <= read_as <= MOST_TOKENS)
    if type(value) is int:
        assert (read_as == value) is (0 <= value <= MOST_TOKENS)


@given(value=odd | st.text() | st.decimals().map(str))
def test_a_cost_is_an_amount(value: Any) -> None:
    """Whatever is read as one is finite and not below 0."""
    cost = usd_figure(value)
    assert cost is None or (cost.is_finite() and cost >= 0)
