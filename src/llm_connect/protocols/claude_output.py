"""What the Claude Code command prints: the lines of `--output-format stream-json --verbose`, sorted and added up.

Source: the real command (2.1.330), see claude_cli.py. Messages of the model `<synthetic>` are the command's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from llm_connect.protocols.usage_figures import Figures, Told, figure, told, usd_figure
from llm_connect.protocols.wire import JSON, loaded, mapping, objects, text

ANSWER_TOOL = "StructuredOutput"

_SYNTHETIC = "<synthetic>"


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
        return text_of(self.messages)

    @property
    def model(self) -> str:
        """The model as answered; a refusal or an empty answer has no message that names it."""
        named = [text(mapping(line["message"]).get("model")) for line in self.messages]
        return next((name for name in (*named, *mapping(self.result.get("modelUsage"))) if name), "")

    @property
    def request_id(self) -> str | None:
        ids = (text(line.get("request_id")) for line in (*self.messages, *self.synthetic))
        return next(filter(None, ids), None)

    @property
    def tells_of_a_request(self) -> bool:
        """Whether anything here can only have come from a provider."""
        return bool(self.messages or any(self.told) or self.result.get("api_error_status"))

    @property
    def told(self) -> Told:
        """What was used, each part the greater of the two accounts in `result`, which may differ."""
        usage = mapping(self.result.get("usage"))
        models = models_in(self.result)

        def most(account: JSON, name: str, model_name: str) -> int:
            return max(figure(account.get(name)) or 0, sum(figure(model.get(model_name)) or 0 for model in models))

        cached = most(usage, "cache_read_input_tokens", "cacheReadInputTokens")
        cache_write = most(usage, "cache_creation_input_tokens", "cacheCreationInputTokens")
        said = Figures(
            prompt=most(usage, "input_tokens", "inputTokens") + cached + cache_write,
            completion=most(usage, "output_tokens", "outputTokens"),
            cached=cached,
            cache_write=cache_write,
            reasoning=most(mapping(usage.get("output_tokens_details")), "thinking_tokens", "thinkingTokens"),
        )
        return told(said, lambda: bool(self.blocks))

    @property
    def asked_for_json(self) -> bool:
        tools = self.init.get("tools")
        return isinstance(tools, list) and ANSWER_TOOL in tools


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


def cost_of(result: JSON) -> Decimal | None:
    """USD by the command's own list prices; None for a model that it does not know: it guesses a price."""
    if any(model.get("costBasis") == "unknown" for model in models_in(result)):
        return None
    return usd_figure(result.get("total_cost_usd")) or None


def models_in(result: JSON) -> list[JSON]:
    """The accounts of the models that took part."""
    return [mapping(model) for model in mapping(result.get("modelUsage")).values()]


def _tells_of_refusal(line: JSON) -> bool:
    return line.get("type") == "system" and text(line.get("subtype")).startswith("model_refusal")


def _blocks(lines: list[JSON]) -> list[JSON]:
    return [block for line in lines for block in objects(mapping(line["message"]).get("content"))]


def text_of(lines: list[JSON]) -> str:
    """The text in these messages."""
    return "".join(text(block.get("text")) for block in _blocks(lines) if block.get("type") == "text")


def _lines(stdout: bytes) -> list[JSON]:
    return [line for line in map(object_of, stdout.split(b"\n")) if line]


def object_of(line: bytes) -> JSON:
    """The JSON object that these bytes are; empty for any others."""
    try:
        return mapping(loaded(line)) if line.strip() else {}
    except (ValueError, RecursionError):
        return {}
