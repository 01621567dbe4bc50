"""The model's answer to a request and its size in tokens, independent of the wire format."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from ._behaviour import Behaviour
from ._generated_text import generated_text, tokens_of
from ._meter import Tariff
from ._received import ReceivedRequest
from ._sample_json import sample_json

Reply = Callable[[ReceivedRequest], str]

WITHOUT_LIMIT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: a text for each choice, and the figures of the whole call.

    `completion_tokens` are those of all choices, reasoning included; `cached_tokens` are part of
    `prompt_tokens`.
    """

    texts: tuple[str, ...]
    cut: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    prompt_cost: Decimal
    completion_cost: Decimal

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> Decimal:
        """USD for the call."""
        return self.prompt_cost + self.completion_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    text: str
    tokens: int
    reasoning: int
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Writes the answers: by `reply`, else as a sample of the wanted JSON, else in generated words."""

    reply: Reply | None
    reply_tokens: int | Literal["limit"]
    tariff: Tariff

    def answer(self, request: ReceivedRequest, schema: Mapping[str, Any] | None, behaviour: Behaviour) -> Answer:
        """The answer to a request, within its output limit unless the behaviour says otherwise."""
        prompt = self.prompt_tokens(request, behaviour)
        choices = [self._choice(request, schema, behaviour, number) for number in range(request.choices)]
        completion = sum(choice.tokens + choice.reasoning for choice in choices)
        return Answer(
            texts=tuple(choice.text for choice in choices),
            cut=any(choice.cut for choice in choices),
            prompt_tokens=prompt,
            cached_tokens=min(behaviour.cached_tokens, prompt),
            completion_tokens=completion,
            reasoning_tokens=sum(choice.reasoning for choice in choices),
            prompt_cost=self.tariff.prompt_cost(prompt),
            completion_cost=self.tariff.completion_cost(completion),
        )

    def prompt_tokens(self, request: ReceivedRequest, behaviour: Behaviour) -> int:
        """The token count of a request's prompt."""
        return self.tariff.count_tokens(request.system_prompt + request.prompt) + behaviour.hidden_prompt_tokens

    def _choice(
        self, request: ReceivedRequest, schema: Mapping[str, Any] | None, behaviour: Behaviour, number: int
    ) -> _Choice:
        limit = request.output_limit
        if behaviour.ignore_limit is not None:
            return self._too_long(request, schema, behaviour, number)
        reasoning = behaviour.reasoning_tokens if limit is None else min(limit, behaviour.reasoning_tokens)
        room = None if limit is None else limit - reasoning
        whole = [] if behaviour.empty_text else tokens_of(self._text(request, schema, number, room))
        kept = whole[:room]
        return _Choice(text="".join(kept), tokens=len(kept), reasoning=reasoning, cut=len(kept) < len(whole))

    def _too_long(
        self, request: ReceivedRequest, schema: Mapping[str, Any] | None, behaviour: Behaviour, number: int
    ) -> _Choice:
        whole = tokens_of(self._text(request, schema, number, None))
        total = math.ceil((behaviour.ignore_limit or 0) * (request.output_limit or len(whole)))
        reasoning = min(total, behaviour.reasoning_tokens)
        missing = total - reasoning - len(whole)
        if missing > 0:
            whole += tokens_of(" " + generated_text(request.prompt, missing, variant=number))
        kept = whole[: total - reasoning]
        return _Choice(text="".join(kept), tokens=len(kept), reasoning=reasoning, cut=False)

    def _text(self, request: ReceivedRequest, schema: Mapping[str, Any] | None, number: int, room: int | None) -> str:
        if self.reply is not None:
            return self.reply(request)
        if schema is not None:
            return json.dumps(sample_json(schema))
        if self.reply_tokens != "limit":
            return generated_text(request.prompt, self.reply_tokens, variant=number)
        # One word more than there is room for: a model that fills its limit has always been cut.
        return generated_text(request.prompt, WITHOUT_LIMIT if room is None else room + 1, variant=number)
