"""The interfaces of the call path: the adapter that it uses, and the call so far. Its parts need neither class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

from llm_connect.interface.metered import Metered
from llm_connect.protocols.wire import Answer, Failure

if TYPE_CHECKING:
    from llm_connect.budget.accounting.bounds import Bound
    from llm_connect.budget.accounting.prices import Price
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.budget.admission.log import Owed
    from llm_connect.budget.tracker import BudgetTracker
    from llm_connect.engine.concurrency_limit import Slots
    from llm_connect.engine.deadline import Deadline
    from llm_connect.engine.response_stream import AsyncOpenReply, OpenReply
    from llm_connect.engine.scrub import Scrubber
    from llm_connect.engine.threads import Once
    from llm_connect.interface.config import RunConfig
    from llm_connect.protocols.stream_reading import Reading
    from llm_connect.protocols.wire import JSON, Reply
    from llm_connect.types.amounts import Amount
    from llm_connect.types.response import Prompt

#: The outcome of an attempt.
Outcome: TypeAlias = Answer | Failure


@dataclass(slots=True)
class Request:
    """One rendered request: its body, path and model; a GET has no body."""

    path: str
    model: str
    body: JSON
    method: Literal["POST", "GET"] = "POST"


@dataclass(frozen=True, slots=True)
class Counting:
    """The provider's endpoint that counts the tokens of a prompt.

    request: makes the question about a request. bound: tightens a bound for a model by the reply, or returns it as it
    is if the reply has no count.
    """

    request: Callable[[Request], Request]
    bound: Callable[[Bound, Reply, str], Bound]


class Exchange(Metered, Protocol):
    """An adapter as the call path sees it; `ProviderAdapter` documents the members."""

    provider: ClassVar[str]
    marks_sent: ClassVar[bool]

    @property
    def model(self) -> str: ...
    @property
    def slots(self) -> Slots: ...
    @property
    def scrubber(self) -> Scrubber: ...
    @property
    def max_reply_bytes(self) -> int: ...

    # Before the first call.
    @property
    def cold(self) -> bool: ...
    @property
    def warming(self) -> Once: ...
    def prepare(self) -> None: ...
    def make_client(self) -> None: ...
    async def amake_client(self) -> None: ...

    # The request and its cost.
    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request: ...
    def limited(self, request: Request, max_tokens: int | None) -> Request: ...
    def streamed(self, request: Request) -> Request: ...
    def priced(self, request: Request, price: Price) -> Request: ...
    def bound_of(self, request: Request, max_tokens: int) -> Bound: ...
    def _bound_rendered(self, prompt: Prompt, config: RunConfig, request: Request, max_tokens: int) -> Bound: ...
    @property
    def price_list(self) -> str | None: ...
    @property
    def counting(self) -> Counting | None: ...

    # Sending it, and reading the reply.
    def send(self, request: Request, deadline: Deadline) -> Reply: ...
    async def asend(self, request: Request, deadline: Deadline) -> Reply: ...
    def open(self, request: Request, deadline: Deadline) -> OpenReply: ...
    async def aopen(self, request: Request, deadline: Deadline) -> AsyncOpenReply: ...
    def transport_failure(self, error: Exception) -> Failure: ...
    def parse(self, reply: Reply) -> Outcome: ...
    def reading(self) -> Reading: ...


class CallSoFar(Protocol):
    """The facts about a call that its response or error needs."""

    @property
    def adapter(self) -> Exchange: ...
    @property
    def prompt(self) -> Prompt: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def tracker(self) -> BudgetTracker | None: ...
    @property
    def model(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def attempts(self) -> int: ...
    @property
    def hold(self) -> Hold | None: ...
    @property
    def bound(self) -> Bound | None: ...
    @property
    def booked(self) -> Amount: ...
    @property
    def price(self) -> Price | None: ...
    @property
    def text(self) -> str: ...
    @property
    def owed(self) -> Owed | None: ...
