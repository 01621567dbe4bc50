"""The call path of a stream: the same attempts, each of which gives its text on while it comes.

    ... reserve -> dispatch -> open -> next, next, ... -> settle -> close

Chunks leave the generator between its steps. Until the first one has left, a failure is tried again like any other.
Whatever ends the stream, the hold has ended and the connection is closed by then.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llm_connect.calling.deadline import Deadline
from llm_connect.calling.flow import Call, Outcome
from llm_connect.calling.heads import Head
from llm_connect.calling.open_reply import AsyncOpenReply, OpenReply
from llm_connect.calling.outcomes import end_cut, not_read, outcome_of, read, response_of
from llm_connect.calling.stream_drivers import StreamFlow, abandon, adrive_stream, drive_stream
from llm_connect.calling.stream_steps import Close, Next, Open, Patience
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.callers import remember_own
from llm_connect.core.chunks import StreamChunk, TextChunk, chunks_of
from llm_connect.core.exceptions import LLMAPIError, LLMConnectionError
from llm_connect.core.holds import Hold
from llm_connect.core.models import LLMResponse, Prompt, RunConfig
from llm_connect.core.stream_sources import nothing_yet
from llm_connect.protocols.stream_reading import PlainReading, Reading
from llm_connect.protocols.wire import Answer, Failure, Reply, is_good

if TYPE_CHECKING:
    from llm_connect.calling.provider import ProviderAdapter, Request

#: How long, once the answer is whole, the end of its bytes is waited for, so that the connection can be used again.
_FOR_THE_END_SECONDS = 0.1


class StreamedCall(Call):
    """One call whose answer is given on while it comes."""

    def __init__(self, adapter: ProviderAdapter, prompt: Prompt, config: RunConfig) -> None:
        super().__init__(adapter, prompt, config)
        self._texts: list[str] = []
        self._length = 0
        self._response: LLMResponse | None = None
        self._outcome: Outcome | None = None
        self._reading: Reading = PlainReading()
        self._reply: OpenReply | AsyncOpenReply | None = None
        self._waiting_since = self.started
        self._until_deadline = Patience(self.deadline)

    @property
    def text(self) -> str:
        """The text that was given on so far."""
        return "".join(self._texts)

    @property
    def response(self) -> LLMResponse:
        """The response; before its end, what has come of it."""
        return self._response or self._so_far()

    def chunks(self) -> StreamFlow:
        """The flow of the stream, for a driver."""
        try:
            self._response = yield from self.run()
            for chunk in chunks_of(self._response, self.text):
                self._texts.append(chunk.text)
                yield chunk
        finally:
            self._response = self.response

    def _send(self, request: Request) -> Generator[Any, Any, Outcome]:
        self._outcome, self._reading, self._reply, self._head = (
            None,
            PlainReading(),
            None,
            Head(sent=not self.adapter.marks_sent),
        )
        self._waiting_since, self._until_deadline = time.monotonic(), Patience(self.deadline)
        reply = yield Open(self.adapter, self.adapter.streamed(request), self._patience(), self._head)
        if isinstance(reply, Failure):
            return reply
        self._reply, self._head.headers = reply, reply.headers
        # Errors do not come as streams; a command has no status, and streams all that it says.
        self._reading = self.adapter.reading() if not reply.status or is_good(reply.status) else PlainReading()
        is_driven = True
        try:
            return (yield from self._read(reply, self._reading))
        except GeneratorExit:
            # Garbage, with the event loop that was closed under it: nobody takes a step any more.
            is_driven = False
            raise
        finally:
            if is_driven:
                yield Close(reply)
            else:
                Close(reply).abandon()

    def _read(self, reply: OpenReply | AsyncOpenReply, reading: Reading) -> Generator[Any, Any, Outcome]:
        while self._outcome is None:
            piece = yield Next(self.adapter, reply, self._patience(), self._head)
            if isinstance(piece, Failure):
                return piece
            try:
                texts = reading.feed(piece) if piece else reading.end()
            except Exception as error:
                return not_read(error)
            self._length += sum(map(len, texts))
            if self._length > self.adapter.max_reply_bytes:
                return _TOO_LONG
            if reading.ended or not piece:
                self._conclude()
            for text in texts:
                yield from self._give(text)
        if reading.ended:
            yield Next(self.adapter, reply, Patience(Deadline.after(_FOR_THE_END_SECONDS)), self._head)
        return self._outcome

    def _conclude(self) -> None:
        """All is known before the last text is given on, which the caller may answer by leaving."""
        self._outcome = self._parsed() if self._reading.whole else _NO_END
        if self.hold is not None:
            self._end(self.hold, self._outcome)

    def _give(self, text: str) -> Generator[StreamChunk, None, None]:
        self._texts.append(text)
        yield TextChunk(text)
        self._waiting_since = time.monotonic()

    def _reserve(self, tracker: BudgetTracker) -> Generator[Any, Any, Hold]:
        hold = yield from super()._reserve(tracker)
        # The caller goes on while it is open, so that another call of its own must not wait for it.
        remember_own(hold)
        return hold

    def _pause_after(self, failure: Failure) -> float | None:
        return None if self._texts else super()._pause_after(failure)

    def _end_open(self, hold: Hold) -> None:
        if not self._head.sent:
            hold.release()
            return
        said = self._parsed()
        if self._reading.whole and isinstance(said, Answer):
            # The model had come to its end, although nobody waited for the end of the bytes.
            self._outcome = said
            self._end(hold, said)
        self._name(hold, self._head.request_id)
        end_cut(hold, said)

    def _patience(self) -> Patience:
        seconds = self.config.idle_seconds if self._texts else self.config.first_chunk_seconds
        if seconds is None or self._waiting_since + seconds >= self.deadline.at:
            return self._until_deadline
        until = Deadline(self._waiting_since + seconds)
        if self._texts:
            return Patience(until, "no further text came", "idle_seconds")
        return Patience(until, "no text came", "first_chunk_seconds")

    def _parsed(self) -> Outcome:
        """What has come of the reply, as without streaming."""
        return outcome_of(lambda: read(self.adapter, self._whole_reply()))

    def _whole_reply(self) -> Reply:
        reply = self._reply
        if reply is None:
            return Reply(0, {}, self._reading.body)
        # A command tells its headers when it has ended.
        return Reply(reply.status, reply.headers, self._reading.body)

    def _so_far(self) -> LLMResponse:
        said = self._outcome if isinstance(self._outcome, Answer) else self._unknown()
        return response_of(self, replace(said, content=self.text))

    def _unknown(self) -> Answer:
        request_id = self.adapter.scrubber.name(self._head.request_id)
        return Answer(content="", model="", finish_reason="unknown", request_id=request_id)


class ProviderStream:
    """The source of a stream of a provider adapter: its call begins when the first chunk is asked for."""

    def __init__(self, adapter: ProviderAdapter, prompt: Prompt, config: RunConfig) -> None:
        self._arguments = (adapter, prompt, config)
        self._call: StreamedCall | None = None
        self._flow = self._begin()

    def chunks(self) -> Generator[StreamChunk]:
        return drive_stream(self._flow)

    def achunks(self) -> AsyncGenerator[StreamChunk]:
        return adrive_stream(self._flow)

    def abandon(self) -> None:
        abandon(self._flow)

    @property
    def text(self) -> str:
        return "" if self._call is None else self._call.text

    @property
    def response(self) -> LLMResponse:
        if self._call is not None:
            return self._call.response
        adapter, _, config = self._arguments
        return nothing_yet(config.model_name or adapter.model)

    def _begin(self) -> StreamFlow:
        self._call = StreamedCall(*self._arguments)
        yield from self._call.chunks()


_TOO_LONG = Failure(
    kind=LLMAPIError,
    message="The text of the stream is over max_reply_bytes: where it is to be read, give the adapter a larger one.",
)
_NO_END = Failure(
    kind=LLMConnectionError,
    message="The stream ended before the answer did: check the network and base_url.",
    retryable=True,
)
