"""The Claude Code command: its input, and the meaning of its output.

Source: the real command (2.1.330) against a Messages server on loopback, run as in `providers/claude_code.py`: a
budget that any request exceeds stops it after one request. So `budget_exhausted` is the good end, and `is_error`,
`subtype` and the exit code mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from llm_connect.budget.accounting.bounds import Bound, TokenCounter, utf8_bytes
from llm_connect.errors import LLMConfigurationError, LLMResponseError, LLMSubprocessError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.claude_output import ANSWER_TOOL, Output, cost_of, read, text_of
from llm_connect.protocols.error_bodies import ErrorFields
from llm_connect.protocols.http_failures import from_status, no_reply
from llm_connect.protocols.params import check_known, json_schema
from llm_connect.protocols.prompt_sizes import TOOL_PROMPT_TOKENS, PromptSizes
from llm_connect.protocols.replies import spent_on_thinking
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply, mapping, object_in, shown, text, with_field
from llm_connect.types.response import FinishReason, Prompt

EFFORTS = ("low", "medium", "high", "xhigh", "max")

_FRAMING_TOKENS = 256
_LOGIN_FRAMING_TOKENS = 1_536
_MOST_STDIN_BYTES = 10 * 1024 * 1024
#: Linux does not accept a single argument above 128 KiB.
_MOST_SCHEMA_BYTES = 100 * 1024
_CALL_THE_TOOL = f"Give the whole answer by one call of the tool {ANSWER_TOOL}, and no text beside it."
_CUT_INPUT = "__unparsedToolInput"
_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
_NEVER_CONNECTED = ("ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN")


def render(prompt: Prompt, config: RunConfig, *, model: str, max_tokens: int | None) -> JSON:
    """Render the input of one run; the adapter turns it into arguments, environment and standard input."""
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


def limited(body: JSON, max_tokens: int | None) -> JSON:
    """The same run with another output limit, or without one."""
    return with_field(body, "max_tokens", max_tokens)


def bound(body: JSON, max_tokens: int, *, login: bool, counter: TokenCounter | None = None) -> Bound:
    """The upper bound of one run. It is always an estimate: one request, which the command frames in its own way.

    Besides its input, the command sends two lines about itself (about 140 bytes), and with a login about 1,000 bytes
    about its environment. It sends a schema as a tool, to which Anthropic adds a prompt.
    """
    sizes = PromptSizes(body["model"], counter)
    schema = utf8_bytes(body.get("json_schema"))
    framing = _LOGIN_FRAMING_TOKENS if login else _FRAMING_TOKENS
    tools = TOOL_PROMPT_TOKENS if schema else 0
    return Bound(
        prompt_tokens=sizes.prompt((body["prompt"], body["system_prompt"]), [], added=schema + framing + tools),
        max_tokens=max_tokens,
        grade=sizes.grade(limited=True, plain=False),
    )


def disarmed(prompt: Prompt) -> str:
    """Make the prompt plain text: with `/` as its first character it would be a command."""
    prompt = f"\n{prompt}" if prompt.startswith("/") else prompt
    if len(prompt.encode()) > _MOST_STDIN_BYTES:
        raise LLMConfigurationError("The prompt is longer than the 10 MiB that claude-code takes: shorten it.")
    return prompt


def keeps_the_limit(body: JSON, sent: bytes) -> bool:
    """True if the command's request asks for no more output than it was told to."""
    most = body.get("max_tokens")
    if most is None:
        return True
    limit = (object_in(sent) or {}).get("max_tokens")
    return isinstance(limit, int) and limit <= most


def parse(reply: Reply) -> Answer | Failure:
    """Parse the result of a run into an answer or a failure.

    The body is the output of the command, and the headers are `exit-code`, `stderr`, and, if known, `sent` ("yes" or
    "no": a request went out) and the provider's `request-id`.
    """
    output = read(reply.body)
    outcome = _outcome(reply, output)
    outcome = replace(outcome, request_id=outcome.request_id or reply.headers.get("request-id"))
    if isinstance(outcome, Answer) or "sent" not in reply.headers:
        return outcome
    unsent = reply.headers["sent"] == "no" and not (outcome.maybe_billed and output.tells_of_a_request)
    return replace(outcome, maybe_billed=not unsent)


def _outcome(reply: Reply, output: Output) -> Answer | Failure:
    if not output.result:
        return _no_result(reply, output)
    if output.refused:
        return _answer(output, output.content, "content_filter")
    if output.result.get("api_error") == "max_output_tokens":
        return _answer(output, output.content, "length")
    if output.result.get("terminal_reason") not in ("budget_exhausted", "completed"):
        return _failure(reply, output)
    if output.synthetic or output.result.get("api_error"):
        return _cut(output, text_of(output.synthetic))
    return _structured(output) if output.asked_for_json else _plain(output)


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
    """Read an answer as text. A stream that was cut after a block ends like a good one, but without a stop reason."""
    stop_reason = output.result.get("stop_reason")
    if stop_reason is None:
        return _cut(output, "")
    return _answer(output, output.content, _FINISH.get(text(stop_reason), "unknown"))


def _structured(output: Output) -> Answer | Failure:
    if isinstance(checked := output.result.get("structured_output"), dict):
        return _answer(output, _compact(checked), "stop")
    call = next((block for block in output.blocks if block.get("name") == ANSWER_TOOL), None)
    if call is None:
        finish = _FINISH.get(text(output.result.get("stop_reason")), "unknown")
        return _answer(output, "", "length") if finish == "length" else _no_json(output)
    given = mapping(call.get("input"))
    if _CUT_INPUT in given:
        return _answer(output, text(mapping(given[_CUT_INPUT]).get("raw")), "length")
    return _answer(output, _compact(given), "stop")


def _answer(output: Output, content: str, finish: FinishReason) -> Answer:
    cost, said = cost_of(output.result), output.told
    return Answer(
        content=content,
        model=output.model,
        usage=said.usage,
        used_at_least=said.least,
        finish_reason=finish,
        cost=cost,
        cost_source=None if cost is None else "claude-cli",
        request_id=output.request_id,
        hint=None if content else spent_on_thinking(finish),
    )


def _failure(reply: Reply, output: Output) -> Failure:
    result = output.result
    errors = result.get("errors")
    said = text(result.get("result")) or " ".join(map(text, errors if isinstance(errors, list) else []))
    status = result.get("api_error_status")
    if isinstance(status, int) and not isinstance(status, bool):
        return _asked_again(output) if reply.headers.get("sent") == "yes" else _refused_by_api(output, status, said)
    if said.startswith("Not logged in"):
        return _nothing_sent("The claude command is not logged in: pass api_key=, or log in with it once.")
    if result.get("terminal_reason") == "blocking_limit":
        return _nothing_sent("The claude command finds the prompt too long for the model's window: shorten it.")
    if result.get("api_error") == "connection_failed":
        return _cut(output, said)
    if result.get("terminal_reason") in ("api_error", "structured_output_retry_exhausted"):
        return _unusable(output, f"No answer came ({shown(said)}): check that base_url names the provider's API.")
    said = shown(said) or f"it ended by {result.get('terminal_reason')}"
    return _with_usage(_command_failed(reply, said), output)


def _refused_by_api(output: Output, status: int, said: str) -> Failure:
    headers = {"request-id": output.request_id} if output.request_id else {}
    fields = ErrorFields(message=said, type=text(output.result.get("api_error_type")) or None)
    return _with_usage(from_status(Reply(status, headers, b""), fields), output)


def _asked_again(output: Output) -> Failure:
    """The failure of a second request. The provider's own errors never reach the command, so this one came from us."""
    return _unreadable(
        output,
        "The claude command rejected the reply and asked again, and its second request was blocked: "
        "check that base_url names the provider's API, and that this version of the command is supported.",
    )


def _cut(output: Output, said: str) -> Failure:
    """The failure of a cut answer. It has no usage, because the usage up to the cut is not the whole bill."""
    unsent = any(code in said for code in _NEVER_CONNECTED)
    return no_reply(shown(said) or "it was cut", unsent=unsent, request_id=output.request_id)


def _no_json(output: Output) -> Failure:
    said = f"The model answered with text instead of JSON for the schema: {shown(output.content) or 'none'}"
    return _unusable(output, said, retryable=True)


def _unusable(output: Output, message: str, *, retryable: bool = False) -> Failure:
    return _with_usage(replace(_unreadable(output, message), retryable=retryable), output)


def _unreadable(output: Output, message: str) -> Failure:
    details = {"status_code": 200}
    return Failure(kind=LLMResponseError, message=message, request_id=output.request_id, details=details)


def _with_usage(failure: Failure, output: Output) -> Failure:
    said = output.told
    return replace(failure, usage=said.usage, used_at_least=said.least)


def _nothing_sent(message: str) -> Failure:
    return Failure(kind=LLMConfigurationError, message=message, maybe_billed=False)


def _no_result(reply: Reply, output: Output) -> Failure:
    """The failure of a run without a result. Exit code 1 before the first line means that the input was refused."""
    said = reply.headers.get("stderr", "")
    refused = reply.headers.get("exit-code") == "1" and not reply.body.strip()
    if refused and said.startswith("Error: --json-schema"):
        return _nothing_sent(shown(said))
    return _command_failed(reply, shown(said) or "it printed no result", maybe_billed=not refused)


def _command_failed(reply: Reply, said: str, *, maybe_billed: bool = True) -> Failure:
    code = int(reply.headers.get("exit-code", "0"))
    advice = "check that the command at cli_path runs by itself"
    return Failure(
        kind=LLMSubprocessError,
        message=f"The claude command failed (exit code {code}): {said} ({advice}).",
        maybe_billed=maybe_billed,
        details={"return_code": code, "stderr": reply.headers.get("stderr", "")},
    )


def _compact(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
