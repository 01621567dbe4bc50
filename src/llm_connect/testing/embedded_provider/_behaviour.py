"""Tells the provider to delay, fail, drip or lie."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ._http_messages import Pace, Stall
from ._received import WIRE_FORMATS, Question, WireFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """A way to treat a request instead of answering it well; the parts combine.

        provider.script(Behaviour(status=429, retry_after=2), times=1)
        provider.script(Behaviour(delay=0.2, usage="missing"))

    Errors: `status` (400 to 599) answers in the provider's error shape with `error_code`, `error_type`,
    `error_message` and `retry_after` (seconds; a header, in Gemini's format a RetryInfo detail);
    `error_in_200` sends that error under HTTP 200; `redirect` answers 307 to that URL.
    Timing, in seconds: `delay` before the headers; `drip` between single bytes of the body (with
    `drip_headers` of the headers, too); `stall` never goes on, until the client or the server closes;
    `chunk_delay` after each event of a stream.
    Broken transport: `cut` closes after that many bytes of the body, or "before_reply"; `cut_stream` ends an
    event stream in good order but without its last events. `pieces` is how many events with text a stream has
    before `cut_stream`, `stall="in_stream"` or `error_in_200` take effect: else all of them, and none before an error.
    Lies: `body` and `content_type` replace the reply; `usage` is "missing" or "zero"; `ignore_limit` returns
    and bills that many times the output limit; `empty_text`; `finish_reason` in the provider's own words;
    `headers` are added.
    Figures, in tokens: `hidden_prompt_tokens` are billed on top of the prompt, `cached_tokens` are part of
    it, `reasoning_tokens` come before the text and share the output limit with it. `byok` makes OpenRouter
    report its fee (5 %) as the cost, and the money as the upstream cost.

    Billed in full when the request has arrived, whatever becomes of the reply: delay, drip, stall, cut, a bad
    body, an error in a 200. Not billed: `status` and `redirect`. `billed` overrides both.
    """

    delay: float = 0.0
    status: int | None = None
    error_code: str | int | None = None
    error_message: str | None = None
    error_type: str | None = None
    retry_after: float | None = None
    error_in_200: bool = False
    redirect: str | None = None
    billed: bool | None = None
    drip: float | None = None
    drip_headers: bool = False
    stall: Stall | None = None
    cut: int | Literal["before_reply"] | None = None
    cut_stream: bool = False
    pieces: int | None = None
    chunk_delay: float = 0.0
    body: bytes | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: Literal["missing", "zero"] | None = None
    ignore_limit: float | None = None
    empty_text: bool = False
    finish_reason: str | None = None
    hidden_prompt_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    byok: bool = False

    def __post_init__(self) -> None:
        if self.status is not None and not (type(self.status) is int and 400 <= self.status <= 599):
            raise ValueError(f"status is an error status from 400 to 599, not {self.status!r}")
        for name, value, known in (
            ("stall", self.stall, get_args(Stall)),
            ("usage", self.usage, ("missing", "zero")),
            ("cut", self.cut if isinstance(self.cut, str) else None, ("before_reply",)),
        ):
            if value is not None:
                _check_name(name, value, known)
        figures = (
            self.delay,
            self.chunk_delay,
            self.pieces or 0,
            self.drip or 0,
            self.retry_after or 0,
            self.ignore_limit or 0,
        )
        counts = (self.hidden_prompt_tokens, self.cached_tokens, self.reasoning_tokens)
        if min(*figures, *counts) < 0 or (isinstance(self.cut, int) and self.cut < 0):
            raise ValueError("times, factors and numbers of tokens or bytes are never negative")

    @property
    def fails(self) -> bool:
        """True when the answer is an error, under whatever HTTP status."""
        return self.status is not None or self.error_in_200

    @property
    def is_billed(self) -> bool:
        """True when a request that meets this behaviour is billed."""
        if self.billed is not None:
            return self.billed
        return self.redirect is None and (self.status is None or self.error_in_200)

    @property
    def pace(self) -> Pace:
        """The timing part, as the server takes it."""
        return Pace(
            delay=self.delay,
            between=self.chunk_delay,
            drip=self.drip,
            drip_headers=self.drip_headers,
            stall=self.stall,
            cut=self.cut,
        )


NORMAL = Behaviour()


def _check_name(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{what} is one of {', '.join(map(repr, known))}, not {value!r}")


@dataclass(slots=True)
class _Rule:
    behaviour: Behaviour
    wire_format: WireFormat | Question | None
    left: int | None

    def applies_to(self, wanted: WireFormat | Question) -> bool:
        return wanted == self.wire_format or (self.wire_format is None and wanted in WIRE_FORMATS)


class Script:
    """The behaviours for the next requests; thread-safe.

    Counted behaviours come first, in the order they were added; then the standing one added last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: list[_Rule] = []
        self._standing: list[_Rule] = []

    def add(self, behaviour: Behaviour, *, times: int | None, wire_format: WireFormat | Question | None) -> None:
        """Adds a behaviour for `times` requests, or for all of them."""
        if not isinstance(behaviour, Behaviour):
            raise TypeError(f"script takes a Behaviour, such as Behaviour(status=429), not {behaviour!r}")
        if times is not None and (type(times) is not int or times < 1):
            raise ValueError(f"times is a whole number of at least 1, or None for all requests, not {times!r}")
        if wire_format is not None:
            _check_name("wire_format", wire_format, (*WIRE_FORMATS, *get_args(Question)))
        with self._lock:
            rules = self._standing if times is None else self._counted
            rules.append(_Rule(behaviour, wire_format, times))

    def clear(self) -> None:
        """Returns to good behaviour."""
        with self._lock:
            self._counted.clear()
            self._standing.clear()

    def take(self, wanted: WireFormat | Question) -> Behaviour:
        """The behaviour of the next request of that format or question; uses up one turn of a counted one."""
        with self._lock:
            for rule in [*self._counted, *reversed(self._standing)]:
                if rule.applies_to(wanted):
                    self._use(rule)
                    return rule.behaviour
        return NORMAL

    def _use(self, rule: _Rule) -> None:
        if rule.left is not None:
            rule.left -= 1
            if rule.left == 0:
                self._counted.remove(rule)
