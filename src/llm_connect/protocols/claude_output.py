"""The output of the Claude Code command: the lines of `--output-format stream-json --verbose`, sorted and added up.

Source: the real command (2.1.330), see claude_cli.py. Messages of the model `<synthetic>` are the command's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.usage_figures import Figures, Told, figure, told, usd_figure
from llm_connect.protocols.wire import JSON, mapping, object_in, objects, text

ANSWER_TOOL = "StructuredOutput"

_SYNTHETIC = "<synthetic>"


@dataclass(frozen=True, slots=True)
class Output:
    """The sorted output of one run; `result` is empty if the run did not finish."""

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
        """The model that answered; a refusal or an empty answer has no message that names it."""
        named = [text(mapping(line["message"]).get("model")) for line in self.messages]
        return next((name for name in (*named, *mapping(self.result.get("modelUsage"))) if name), "")

    @property
    def request_id(self) -> str | None:
        ids = (text(line.get("request_id")) for line in (*self.messages, *self.synthetic))
        return next(filter(None, ids), None)

    @property
    def tells_of_a_request(self) -> bool:
        """True if something here can only have come from a provider."""
        return bool(self.messages or any(self.told) or self.result.get("api_error_status"))

    @property
    def told(self) -> Told:
        """The usage. `result` has two accounts, which may differ; of each part the greater one counts."""
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
        return told(said, lambda: bool(self.blocks) or self.reached_limit)

    @property
    def reached_limit(self) -> bool:
        """True if the answer ended at its output limit."""
        result = self.result
        return result.get("stop_reason") == "max_tokens" or result.get("api_error") == "max_output_tokens"

    @property
    def asked_for_json(self) -> bool:
        tools = self.init.get("tools")
        return isinstance(tools, list) and ANSWER_TOOL in tools


def read(stdout: bytes) -> Output:
    """Sort the lines of one run. Lines of unknown kinds, or without a JSON object, are left out."""
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
    """USD by the command's own list prices; None for a model that the command does not know, whose price it guesses."""
    if any(model.get("costBasis") == "unknown" for model in models_in(result)):
        return None
    return usd_figure(result.get("total_cost_usd")) or None


def models_in(result: JSON) -> list[JSON]:
    """The usage of each model that took part."""
    return [mapping(model) for model in mapping(result.get("modelUsage")).values()]


def _tells_of_refusal(line: JSON) -> bool:
    return line.get("type") == "system" and text(line.get("subtype")).startswith("model_refusal")


def _blocks(lines: list[JSON]) -> list[JSON]:
    return [block for line in lines for block in objects(mapping(line["message"]).get("content"))]


def text_of(lines: list[JSON]) -> str:
    """The text in these messages."""
    return "".join(text(block.get("text")) for block in _blocks(lines) if block.get("type") == "text")


def _lines(stdout: bytes) -> list[JSON]:
    return [line for line in map(object_in, stdout.split(b"\n")) if line]


class LinesReading(Reading):
    """Reads the lines of one run while they arrive. The result is parsed from all of them at its end.

    `--include-partial-messages` adds the events of the provider's own reply.
    """

    def __init__(self) -> None:
        super().__init__()
        self._line: list[bytes] = []

    def feed(self, piece: bytes) -> list[str]:
        self._pieces.append(piece)
        first, *others = piece.split(b"\n")
        self._line.append(first)
        if not others:
            return []
        lines = (b"".join(self._line), *others[:-1])
        self._line = [others[-1]]
        return list(filter(None, map(_text_in, lines)))


def _text_in(line: bytes) -> str:
    said = object_in(line) or {}
    delta = mapping(mapping(said.get("event")).get("delta"))
    is_text = said.get("type") == "stream_event" and delta.get("type") == "text_delta"
    return text(delta.get("text")) if is_text else ""
