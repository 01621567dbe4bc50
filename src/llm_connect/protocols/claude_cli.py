"""The Claude Code command: its prompt, and the lines of `--output-format stream-json --verbose`.

Source: the real command (2.1.330) against a Messages server on loopback, run as by `adapters/claude_code.py`:
stopped after one request by a budget that any request exceeds. So `budget_exhausted` is the good end, and
`is_error`, `subtype` and the exit code say nothing. Messages of the model `<synthetic>` are the command's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from llm_connect.core.bounds import Bound, utf8_bytes
from llm_connect.core.exceptions import (
    LLMConfigurationError,
    LLMConnectionError,
    LLMResponseError,
    LLMSubprocessError,
)
from llm_connect.core.models import FinishReason, Prompt, RunConfig, Usage
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens
from llm_connect.protocols.http_failures import ErrorFields, from_status
from llm_connect.protocols.params import check_known, json_schema
from llm_connect.protocols.wire import (
    JSON,
    Answer,
    Failure,
    Reply,
    count,
    mapping,
    shown,
    spent_on_thinking,
    text,
)

EFFORTS = ("low", "medium", "high", "xhigh", "max")

_FRAMING_TOKENS = 256
_LOGIN_FRAMING_TOKENS = 1_536
_TOOL_PROMPT_TOKENS = 1_024
_MOST_STDIN_BYTES = 10 * 1024 * 1024
#: Linux takes no single argument above 128 KiB.
_MOST_SCHEMA_BYTES = 100 * 1024
_ANSWER_TOOL = "StructuredOutput"
_CALL_THE_TOOL = f"Give the whole answer by one call of the tool {_ANSWER_TOOL}, and no text beside it."
_CUT_INPUT = "__unparsedToolInput"
_SYNTHETIC = "<synthetic>"
_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
_NEVER_CONNECTED = ("ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN")


@dataclass(frozen=True, slots=True)
class Output:
    """What one run of the command printed, sorted; `result` is empty when it has not come to its end."""

    init: JSON
    messages: list[JSON]
    synthetic: list[JSON]
    refused: bool
    result: JSON

    @property
    def blocks(self) -> list[JSON]:
        """The parts of the model's answer, in order."""
        return _blocks(self.messages)

    @property
    def content(self) -> str:
        return _text_of(self.messages)

    @property
    def request_id(self) -> str | None:
        ids = (text(line.get("request_id")) for line in (*self.messages, *self.synthetic))
        return next(filter(None, ids), None)

    @property
    def asked_for_json(self) -> bool:
        tools = self.init.get("tools")
        return isinstance(tools, list) and _ANSWER_TOOL in tools


def render(prompt: Prompt, config: RunConfig, *, model: str, max_tokens: int | None) -> JSON:
    """What one run of the command is given; the adapter turns it into arguments, environment and input."""
    check_known(config, {"effort"}, "claude-code")
    if config.temperature is not None:
        raise LLMConfigurationError("The claude command cannot send a temperature: leave it None.")
    body: JSON = {
        "model": model,
        "system_prompt": _system_prompt(config),
        "prompt": disarmed(prompt),
        "max_tokens": max_tokens,
        "effort": _effort(config.model_params.get("effort")),
        "json_schema": _schema(config),
    }
    return {name: value for name, value in body.items() if value is not None}


def bound(body: JSON, max_tokens: int, *, login: bool) -> Bound:
    """What one run may use at most, always an estimate: one request, whose framing is the command's own.

    Beside what it is given, it sends two lines about itself (about 140 bytes), and with a login about 1,000 bytes on
    its surroundings. A schema goes out as a tool, with the prompt that Anthropic adds for tools.
    """
    texts = (body["prompt"], body["system_prompt"], body.get("json_schema"))
    framing = _LOGIN_FRAMING_TOKENS if login else _FRAMING_TOKENS
    tools = _TOOL_PROMPT_TOKENS if "json_schema" in body else 0
    return Bound(
        prompt_tokens=sum(map(utf8_bytes, texts)) + framing + tools + hidden_prompt_tokens(body["model"]),
        max_tokens=max_tokens,
        grade="estimated",
    )


def disarmed(prompt: Prompt) -> str:
    """The prompt as mere text: `/` as its very first character would make it a command."""
    prompt = f"\n{prompt}" if prompt.startswith("/") else prompt
    if len(prompt.encode()) > _MOST_STDIN_BYTES:
        raise LLMConfigurationError("The prompt is longer than the 10 MiB that claude-code takes: shorten it.")
    return prompt


def parse(reply: Reply) -> Answer | Failure:
    """What the lines say: an answer, or why there is none. Headers: `exit-code` and `stderr`."""
    output = read(reply.body)
    if not output.result:
        return _no_result(reply, output)
    if output.refused:
        return _answer(output, output.content, "content_filter")
    if output.result.get("api_error") == "max_output_tokens":
        return _answer(output, output.content, "length")
    if output.result.get("terminal_reason") not in ("budget_exhausted", "completed"):
        return _failure(reply, output)
    if output.synthetic or output.result.get("api_error"):
        return _cut(output, _text_of(output.synthetic))
    return _structured(output) if output.asked_for_json else _plain(output)


def read(stdout: bytes) -> Output:
    """The lines of one run. Lines that are no JSON object, or of a kind not known here, are left out."""
    lines = _lines(stdout)
    of_model = [line for line in lines if line.get("type") == "assistant" and "message" in line]
    results = [line for line in lines if line.get("type") == "result"]
    result = results[-1] if results else {}
    return Output(
        init=next((line for line in lines if line.get("subtype") == "init"), {}),
        messages=[line for line in of_model if mapping(line["message"]).get("model") != _SYNTHETIC],
        synthetic=[line for line in of_model if mapping(line["message"]).get("model") == _SYNTHETIC],
        refused=result.get("stop_reason") == "refusal" or any(_tells_of_refusal(line) for line in lines),
        result=result,
    )


def usage_of(result: JSON) -> Usage | None:
    """Usage in the normal form, each part the greater of the two accounts in `result`, which may differ.

    None when there is nothing in either, because no request is without tokens.
    """
    usage = mapping(result.get("usage"))
    models = _models(result)

    def most(account: JSON, name: str, model_name: str) -> int:
        return max(count(account.get(name)), sum(count(model.get(model_name)) for model in models))

    cached = most(usage, "cache_read_input_tokens", "cacheReadInputTokens")
    written = most(usage, "cache_creation_input_tokens", "cacheCreationInputTokens")
    prompt = most(usage, "input_tokens", "inputTokens") + cached + written
    completion = most(usage, "output_tokens", "outputTokens")
    thinking = most(mapping(usage.get("output_tokens_details")), "thinking_tokens", "thinkingTokens")
    if not prompt and not completion:
        return None
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=max(completion, thinking),
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=thinking,
    )


def cost_of(result: JSON) -> Decimal | None:
    """USD by the command's own list prices; None for a model that it does not know: it guesses a price."""
    total = result.get("total_cost_usd")
    models = _models(result)
    if isinstance(total, bool) or not isinstance(total, int | float) or not 0 < total < float("inf"):
        return None
    if any(model.get("costBasis") == "unknown" for model in models):
        return None
    return Decimal(str(total))


def _system_prompt(config: RunConfig) -> str:
    parts = [config.system_prompt or "", _CALL_THE_TOOL if config.model_params.get("json_schema") else ""]
    return "\n\n".join(part for part in parts if part.strip())


def _effort(effort: object) -> str | None:
    if effort is None or (isinstance(effort, str) and effort in EFFORTS):
        return effort
    listed = ", ".join(EFFORTS)
    raise LLMConfigurationError(f"model_params['effort'] must be one of {listed}, not {effort!r}.")


def _schema(config: RunConfig) -> str | None:
    schema = json_schema(dict(config.model_params))
    if schema is None:
        return None
    if schema.schema.get("type") != "object":
        raise LLMConfigurationError("claude-code needs a json_schema whose type is object: wrap it in one.")
    written = _compact(schema.schema)
    if len(written.encode()) > _MOST_SCHEMA_BYTES:
        raise LLMConfigurationError("json_schema is longer than the 100 KiB that claude-code takes: shorten it.")
    return written


def _plain(output: Output) -> Answer | Failure:
    """A stream that was cut after a block of text ends like a good one, but without a stop reason."""
    stop_reason = output.result.get("stop_reason")
    if stop_reason is None:
        return _cut(output, "")
    return _answer(output, output.content, _FINISH.get(text(stop_reason), "unknown"))


def _structured(output: Output) -> Answer | Failure:
    if isinstance(checked := output.result.get("structured_output"), dict):
        return _answer(output, _compact(checked), "stop")
    call = next((block for block in output.blocks if block.get("name") == _ANSWER_TOOL), None)
    if call is None:
        finish = _FINISH.get(text(output.result.get("stop_reason")), "unknown")
        return _answer(output, "", "length") if finish == "length" else _no_json(output)
    given = mapping(call.get("input"))
    if _CUT_INPUT in given:
        return _answer(output, text(mapping(given[_CUT_INPUT]).get("raw")), "length")
    return _answer(output, _compact(given), "stop")


def _answer(output: Output, content: str, finish: FinishReason) -> Answer:
    cost = cost_of(output.result)
    return Answer(
        content=content,
        model=_model(output),
        usage=usage_of(output.result),
        finish_reason=finish,
        cost=cost,
        cost_source=None if cost is None else "claude-cli",
        request_id=output.request_id,
        hint=spent_on_thinking(content, finish),
    )


def _failure(reply: Reply, output: Output) -> Failure:
    result = output.result
    errors = result.get("errors")
    said = text(result.get("result")) or " ".join(map(text, errors if isinstance(errors, list) else []))
    status = result.get("api_error_status")
    if isinstance(status, int) and not isinstance(status, bool):
        return _refused_by_api(output, status, said)
    if said.startswith("Not logged in"):
        return _nothing_sent("The claude command is not logged in: pass api_key=, or log in with it once.")
    if result.get("terminal_reason") == "blocking_limit":
        return _nothing_sent("The claude command holds the prompt to exceed the model's window: shorten it.")
    if result.get("api_error") == "connection_failed":
        return _cut(output, said)
    if result.get("terminal_reason") in ("api_error", "structured_output_retry_exhausted"):
        return _unusable(output, f"No answer came ({shown(said)}): check that base_url names the provider's API.")
    said = shown(said) or f"it ended by {result.get('terminal_reason')}"
    return _command_failed(reply, said, usage_of(result))


def _refused_by_api(output: Output, status: int, said: str) -> Failure:
    headers = {"request-id": output.request_id} if output.request_id else {}
    fields = ErrorFields(message=said, type=text(output.result.get("api_error_type")) or None)
    return from_status(Reply(status, headers, b""), fields, usage=usage_of(output.result))


def _cut(output: Output, said: str) -> Failure:
    """What was used up to the cut is not the whole of what is billed, so it is not given."""
    unsent = any(code in said for code in _NEVER_CONNECTED)
    what = "No connection could be made" if unsent else "The connection broke before the whole answer came"
    return Failure(
        kind=LLMConnectionError,
        message=f"{what} ({shown(said) or 'it was cut'}): check the network and base_url.",
        retryable=True,
        maybe_billed=not unsent,
        request_id=output.request_id,
    )


def _no_json(output: Output) -> Failure:
    said = f"The model answered with text instead of JSON by the schema: {shown(output.content) or 'none'}"
    return _unusable(output, said, retryable=True)


def _unusable(output: Output, message: str, *, retryable: bool = False) -> Failure:
    return Failure(
        kind=LLMResponseError,
        message=message,
        retryable=retryable,
        request_id=output.request_id,
        usage=usage_of(output.result),
        details={"status_code": 200},
    )


def _nothing_sent(message: str) -> Failure:
    return Failure(kind=LLMConfigurationError, message=message, maybe_billed=False)


def _no_result(reply: Reply, output: Output) -> Failure:
    """A command that ended by itself with 1 before its first line has refused what it was given."""
    said = reply.headers.get("stderr", "")
    refused = reply.headers.get("exit-code") == "1" and not reply.body.strip()
    if refused and said.startswith("Error: --json-schema"):
        return _nothing_sent(shown(said))
    return _command_failed(reply, shown(said) or "it printed no result", maybe_billed=not refused)


def _command_failed(reply: Reply, said: str, usage: Usage | None = None, *, maybe_billed: bool = True) -> Failure:
    code = int(reply.headers.get("exit-code", "0"))
    advice = "check that the command at cli_path runs by itself"
    return Failure(
        kind=LLMSubprocessError,
        message=f"The claude command failed (exit code {code}): {said} ({advice}).",
        maybe_billed=maybe_billed,
        usage=usage,
        details={"return_code": code, "stderr": reply.headers.get("stderr", "")},
    )


def _model(output: Output) -> str:
    """The model as answered; a refusal or an empty answer has no message that names it."""
    named = [text(mapping(line["message"]).get("model")) for line in output.messages]
    return next((name for name in (*named, *mapping(output.result.get("modelUsage"))) if name), "")


def _models(result: JSON) -> list[JSON]:
    return [mapping(model) for model in mapping(result.get("modelUsage")).values()]


def _tells_of_refusal(line: JSON) -> bool:
    return line.get("type") == "system" and text(line.get("subtype")).startswith("model_refusal")


def _blocks(lines: list[JSON]) -> list[JSON]:
    return [block for line in lines for block in _objects(mapping(line["message"]).get("content"))]


def _text_of(lines: list[JSON]) -> str:
    return "".join(text(block.get("text")) for block in _blocks(lines) if block.get("type") == "text")


def _lines(stdout: bytes) -> list[JSON]:
    return [line for line in map(_object, stdout.split(b"\n")) if line]


def _object(line: bytes) -> JSON:
    try:
        return mapping(json.loads(line)) if line.strip() else {}
    except (ValueError, RecursionError):
        return {}


def _objects(value: Any) -> list[JSON]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _compact(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
