"""Replies that come as streams, put together into those that come whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect import LLMAPIError, LLMRateLimitError, LLMResponseError
from llm_connect.protocols import chat_completions, claude_cli, generate_content, responses
from llm_connect.protocols.claude_output import LinesReading
from llm_connect.protocols.stream_reading import EventReading, Reading
from llm_connect.protocols.wire import Answer, Failure, Reply

HALVES = ("\ud83d", "\ude00")


def chat(*events: Any) -> tuple[bytes, ...]:
    return tuple(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def delta(content: str | None, **choice: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "model": "m-1",
        "service_tier": "flex",
        "choices": [{"index": 0, "delta": {"content": content}, **choice}],
    }


def piece(content: str | None, **candidate: Any) -> dict[str, Any]:
    parts = [] if content is None else [{"text": content}]
    return {"modelVersion": "g-1", "candidates": [{"content": {"parts": parts}, **candidate}]}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": 0.5}
FIGURES = {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}
WHOLE = {
    "id": "r1",
    "model": "m-1",
    "service_tier": "flex",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi 😀"}]}],
    "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
}
DONE = b"data: [DONE]\n\n"

GOOD: dict[str, tuple[bytes, ...]] = {
    "chat": (
        b": PROCESSING\n\n",
        *chat(delta(""), delta("hi "), delta(HALVES[0]), delta(HALVES[1]), {"object": "of a kind that is not known"}),
        *chat(delta(None, finish_reason="stop"), {"choices": [], "usage": USAGE}),
        DONE,
    ),
    "responses": chat(
        {"type": "response.created", "response": {"status": "in_progress", "output": []}},
        {"type": "response.a_kind_that_is_not_known", "delta": "not text"},
        {"type": "response.output_text.delta", "delta": "hi "},
        {"type": "response.output_text.delta", "delta": HALVES[0]},
        {"type": "response.output_text.delta", "delta": HALVES[1]},
        {"type": "response.completed", "response": WHOLE},
    ),
    "gemini": chat(
        {**piece("hi "), "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3}},
        piece(HALVES[0]),
        {"candidates": [{"content": {"parts": [{"text": "a thought", "thought": True}]}}], "of a kind": "not known"},
        piece(HALVES[1]),
        {**piece(None, finishReason="STOP"), "usageMetadata": FIGURES},
    ),
}
MAKE: dict[str, Callable[[], EventReading]] = {
    "chat": lambda: EventReading(chat_completions.StreamAssembly()),
    "responses": lambda: EventReading(responses.StreamAssembly()),
    "gemini": lambda: EventReading(generate_content.StreamAssembly()),
}
PARSE = {"chat": chat_completions.parse, "responses": responses.parse, "gemini": generate_content.parse}
FORMATS = list(GOOD)

each_format = pytest.mark.parametrize("wire", FORMATS)


def read(reading: Reading, body: bytes, size: int = 1 << 20) -> str:
    """The text that comes of a body in pieces of this size, and the text at its end."""
    texts = [text for start in range(0, len(body), size) for text in reading.feed(body[start : start + size])]
    return "".join([*texts, *reading.end()])


def outcome(wire: str, *events: bytes) -> Answer | Failure:
    reading = MAKE[wire]()
    read(reading, b"".join(events))
    return PARSE[wire](Reply(200, {}, reading.body))


@each_format
@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_a_stream_is_the_whole_reply_in_pieces(wire: str, size: int) -> None:
    """However it is cut, its text is that of the answer, halves of a character joined; usage, finish reason, model and
    cost are read as without streaming, and events of unknown kinds are ignored. (STREAM-1, STREAM-9)
    """
    reading = MAKE[wire]()
    text = read(reading, b"".join(GOOD[wire]), size)
    answer = PARSE[wire](Reply(200, {}, reading.body))
    assert isinstance(answer, Answer)
    assert (text, answer.content, answer.finish_reason) == ("hi 😀", "hi 😀", "stop")
    assert answer.service_tier == (None if wire == "gemini" else "flex")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert reading.whole


def lines(*events: Any) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


CHUNKS = (delta("hi "), delta("😀"), delta(None, finish_reason="stop"), {"choices": [], "usage": USAGE})
PIECES = (piece("hi "), {**piece("😀", finishReason="STOP"), "usageMetadata": FIGURES})
SPELLINGS: dict[str, tuple[str, bytes]] = {
    "one line after the other": ("chat", b"".join(event[:-1] for event in chat(*CHUNKS)) + b"data: [DONE]\n"),
    "blanks around the end": ("chat", b"".join(chat(*CHUNKS)) + b"data: [DONE]  \n\n"),
    "objects in lines": ("chat", lines(*CHUNKS)),
    "objects in lines that break as on Windows": ("chat", lines(*CHUNKS).replace(b"\n", b"\r\n")),
    "objects in lines, of Gemini": ("gemini", lines(*PIECES)),
    "objects in a list, of Gemini": ("gemini", json.dumps(PIECES, indent=1).encode()),
    "several lines of data": (
        "chat",
        b"".join(
            b"data: " + json.dumps(one, indent=1).encode().replace(b"\n", b"\ndata: ") + b"\n\n" for one in CHUNKS
        ),
    ),
    "a whole message": (
        "chat",
        b"".join(
            chat({**delta(None), "choices": [{"message": {"content": "hi 😀"}, "finish_reason": "stop"}]}, CHUNKS[-1])
        ),
    ),
    "a whole message at the end, beside its pieces": (
        "chat",
        b"".join(
            chat(*CHUNKS[:2], {"choices": [{"message": {"content": "hi 😀"}, "finish_reason": "stop"}]}, CHUNKS[-1])
        ),
    ),
    "the same beside every piece": (
        "chat",
        b"".join(
            chat(*({"choices": [{**one["choices"][0], "message": {"content": "x"}}]} for one in CHUNKS[:3]), CHUNKS[-1])
        ),
    ),
    "other words for the finish": (
        "chat",
        b"".join(chat(*CHUNKS[:2], delta(None, finish_reason="eos_token"), CHUNKS[-1])),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_a_stream_may_be_written_in_other_ways(name: str, size: int) -> None:
    """What servers make of the standard is read as they mean it: the same text, finish and figures. (STREAM-1)"""
    wire, body = SPELLINGS[name]
    reading = MAKE[wire]()
    text = read(reading, body, size)
    answer = PARSE[wire](Reply(200, {}, reading.body))
    assert isinstance(answer, Answer)
    assert (text or answer.content, answer.content, answer.finish_reason) == ("hi 😀", "hi 😀", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


@each_format
def test_a_stream_without_its_end_is_not_whole(wire: str) -> None:
    """Cut before the model said that it had ended, an answer is not whole. (STREAM-8)"""
    events = GOOD[wire]
    for count in range(1, len(events) - {"chat": 2, "responses": 0, "gemini": 0}[wire]):
        reading = MAKE[wire]()
        read(reading, b"".join(events[:count]))
        is_comment = events[:count] == (b": PROCESSING\n\n",)
        assert reading.whole is is_comment
        assert not reading.ended


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "response.output_item.done", "output_index": 0, "item": WHOLE["output"][0]}],
        [
            {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
            {"type": "response.output_item.added", "output_index": 1, "item": {"type": "message", "content": []}},
            {"type": "response.output_text.delta", "delta": "hi 😀"},
        ],
    ],
)
@pytest.mark.parametrize("output", [None, [], [{"type": "reasoning"}], [{"type": "message", "content": []}]])
def test_output_that_the_last_event_leaves_out_is_read_from_the_others(events: list[Any], output: Any) -> None:
    """Some servers send an empty output with `response.completed`: the answer is the text of the events before it.
    (STREAM-1)"""
    answer = outcome(
        "responses", *chat(*events, {"type": "response.completed", "response": {**WHOLE, "output": output}})
    )
    assert isinstance(answer, Answer)
    assert (answer.content, answer.finish_reason) == ("hi 😀", "stop")


def test_a_call_that_only_the_events_tell_of_is_a_call() -> None:
    """The items of the events decide the finish reason if the last event has no output. (STREAM-1)"""
    items = ({"type": "function_call", "name": "f", "arguments": "{}"}, {"type": "reasoning"})
    done = [{"type": "response.output_item.done", "output_index": i, "item": item} for i, item in enumerate(items)]
    answer = outcome("responses", *chat(*done, {"type": "response.completed", "response": {**WHOLE, "output": []}}))
    assert isinstance(answer, Answer)
    assert (answer.content, answer.finish_reason) == ("", "tool_calls")


@pytest.mark.parametrize(
    ("wire", "events"),
    [
        ("chat", chat({**delta("a"), "usage": USAGE}, delta("b", finish_reason="stop"))),
        ("gemini", chat({**piece("a"), "usageMetadata": FIGURES}, piece("b", finishReason="STOP"))),
    ],
)
def test_figures_before_the_end_are_not_those_of_the_answer(wire: str, events: tuple[bytes, ...]) -> None:
    """Usage that came while the model was still writing does not count for the whole answer; of a cut one it is what
    is known. (STREAM-5)"""
    answer, cut = outcome(wire, *events), outcome(wire, events[0])
    assert isinstance(answer, Answer)
    assert (answer.content, answer.usage) == ("ab", None)
    assert cut.usage is not None
    assert cut.usage.total_tokens == 5


ERRORS: dict[str, Any] = {
    "chat": lambda code: {"error": {"message": "fell over", "code": code}, "choices": []},
    "openrouter": lambda code: {
        **delta("", finish_reason="error"),
        "error": {"code": code, "message": "fell over"},
        "usage": USAGE,
    },
    "a choice": lambda code: delta("", finish_reason="error", error={"code": code, "message": "fell over"}),
    "a delta": lambda code: {"choices": [{"delta": {"error": {"code": code, "message": "fell over"}}}]},
    "a message": lambda code: {"choices": [{"message": {"error": {"code": code, "message": "fell over"}}}]},
    "responses": lambda code: {"type": "error", "code": code, "message": "fell over", "param": None},
    "responses, nested": lambda code: {"type": "error", "error": {"code": code, "message": "fell over"}},
    "responses, failed": lambda code: {
        "type": "response.failed",
        "response": {"status": "failed", "error": {"code": code, "message": "fell over"}, "output": []},
    },
    "gemini": lambda code: {"error": {"code": code, "message": "fell over", "status": "INTERNAL"}},
}


OF_CHAT = ("openrouter", "a choice", "a delta", "a message")


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(("code", "kind"), [(500, LLMAPIError), (429, LLMRateLimitError)])
def test_an_error_within_a_stream_is_that_error(name: str, code: int, kind: type[LLMAPIError]) -> None:
    """It ends the stream, and its class is the one that its code stands for, not HTTP 200. (STREAM-7)"""
    wire = "chat" if name in OF_CHAT else name.partition(",")[0]
    reading = MAKE[wire]()
    assert read(reading, b"".join((*GOOD[wire][:3], *chat(ERRORS[name](code)), *GOOD[wire][3:])))
    failure = PARSE[wire](Reply(200, {}, reading.body))
    assert isinstance(failure, Failure)
    assert (reading.whole, failure.kind, failure.retryable, failure.maybe_billed) == (True, kind, True, True)
    assert "fell over" in failure.message


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "gemini"])
@pytest.mark.parametrize(("code", "kind"), [("server_error", LLMAPIError), ("rate_limit_exceeded", LLMRateLimitError)])
def test_an_error_may_have_a_word_as_its_code(name: str, code: str, kind: type[LLMAPIError]) -> None:
    """The words that stand for a status are read as that status. (STREAM-7)"""
    wire = "chat" if name in OF_CHAT else name.partition(",")[0]
    failure = outcome(wire, *chat(ERRORS[name](code)))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.retryable) == (kind, True)


@pytest.mark.parametrize(
    "said",
    [
        chat({"error_code": 336, "error_msg": "fell over"})[0],
        chat({"base_resp": {"status_code": 1002, "status_msg": "fell over"}})[0],
        chat({"exception": "fell over"})[0],
        chat({**delta(""), "detail": "fell over"})[0],
        chat({**delta(""), "errors": ["fell over"]})[0],
        b"event: exception\n" + chat({"text": "fell over"})[0],
        b"event: Failure\ndata: fell over\n\n",
    ],
)
def test_a_cut_answer_is_none_however_the_error_is_told(said: bytes) -> None:
    """`[DONE]` without a finish reason, after words of an error, is no end of an answer. (STREAM-7)"""
    failure = outcome("chat", *chat(delta("Half of the ")), said, DONE)
    assert isinstance(failure, Failure)
    assert "fell over" in failure.message


def test_an_error_with_usage_gives_it_and_earlier_figures_do_not_count() -> None:
    """What an error itself says was used is known; what was said before it is only a part. (STREAM-5, STREAM-7)"""
    with_usage = outcome("chat", *chat(ERRORS["openrouter"](502)))
    assert with_usage.usage is not None
    before = outcome("chat", *chat({**delta("a"), "usage": USAGE}, {"error": {"code": 502, "message": "no"}}))
    assert (type(before), before.usage) == (Failure, None)


@each_format
@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"error": "', b"data: not json\n\n", DONE])
def test_what_is_no_stream_is_read_as_it_is(wire: str, body: bytes) -> None:
    """A page, an empty or a broken body in place of a stream is an unreadable reply. (STREAM-8)"""
    failure = outcome(wire, body)
    assert isinstance(failure, Failure)
    assert failure.kind is LLMResponseError


def test_a_server_that_does_not_stream_is_understood() -> None:
    """A whole reply in place of a stream is that reply; its text comes with the end. (STREAM-1)"""
    reading = MAKE["responses"]()
    assert read(reading, json.dumps(WHOLE).encode()) == ""
    answer = responses.parse(Reply(200, {}, reading.body))
    assert isinstance(answer, Answer)
    assert answer.content == "hi 😀"


@each_format
def test_nothing_after_the_last_event_counts(wire: str) -> None:
    """What a server sends after it said that it has ended is not taken. (STREAM-9)"""
    reading = MAKE[wire]()
    more = {"chat": delta("more"), "gemini": {}}.get(wire, {"type": "response.output_text.delta", "delta": "more"})
    assert read(reading, b"".join((*GOOD[wire], *chat(more)))) == "hi 😀"


@given(st.sampled_from(FORMATS), st.binary(), st.integers(0, 8), st.binary())
def test_any_bytes_give_an_outcome(wire: str, noise: bytes, count: int, more: bytes) -> None:
    """Whatever comes in a stream, reading it raises nothing, and what it comes to can be parsed. (STREAM-9)"""
    events = GOOD[wire]
    body = noise.join((*events[:count], more, *events[count:]))
    reading = MAKE[wire]()
    read(reading, body, 5)
    assert isinstance(PARSE[wire](Reply(200, {}, reading.body)), Answer | Failure)
    assert isinstance(reading.whole and reading.ended, bool)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "finish_reason",
                    "usage",
                    "error",
                    "type",
                    "response",
                    "candidates",
                    "parts",
                    "text",
                    "code",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(FORMATS), st.lists(JSONS, max_size=6))
def test_any_events_give_an_outcome(wire: str, events: list[Any]) -> None:
    """Events of any shape raise nothing, and what they come to can be parsed. (STREAM-9)"""
    kinds = ["error", "response.completed", "response.output_text.delta"]
    named = [
        {**event, "type": kinds[number % 3]} if isinstance(event, dict) and wire == "responses" else event
        for number, event in enumerate(events)
    ]
    assert isinstance(outcome(wire, *chat(*named)), Answer | Failure)


LINES = (
    {"type": "system", "subtype": "init"},
    {"type": "stream_event", "event": {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi "}}},
    {"type": "stream_event", "event": {"delta": {"type": "input_json_delta", "partial_json": "{"}}},
    {"type": "stream_event", "event": {"delta": {"type": "thinking_delta", "thinking": "hm", "text": "no"}}},
    {"type": "a kind that is not known", "event": {"delta": {"type": "text_delta", "text": "no"}}},
    {"type": "stream_event", "event": {"delta": {"type": "text_delta", "text": "you"}}},
    {"type": "assistant", "message": {"model": "c-1", "content": [{"type": "text", "text": "hi you"}]}},
    {
        "type": "result",
        "terminal_reason": "budget_exhausted",
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
)


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_the_commands_lines_are_read_while_they_come(size: int) -> None:
    """Partial messages give the text; all lines together are read as without streaming. (STREAM-1, STREAM-9)"""
    body = b"not json\n" + b"".join(json.dumps(line).encode() + b"\n" for line in LINES)
    reading = LinesReading()
    assert read(reading, body, size) == "hi you"
    assert (reading.body, reading.whole, reading.ended) == (body, True, False)
    answer = claude_cli.parse(Reply(0, {"exit-code": "1", "stderr": ""}, reading.body))
    assert isinstance(answer, Answer)
    assert answer.content == "hi you"


def test_an_error_reply_is_no_stream() -> None:
    """Its body is kept as it came. (STREAM-7)"""
    reading = Reading()
    assert read(reading, b"data: {}\n\n", 3) == ""
    assert (reading.body, reading.whole, reading.ended) == (b"data: {}\n\n", True, False)
