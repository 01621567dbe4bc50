"""The call path of a stream, and how a stream ends that its caller abandons.

    ... reserve -> dispatch -> open -> next, next, ... -> settle -> close

A stream makes the same attempts as any call, and passes the text of an attempt on while it arrives. Until the first
text has left, a failure is retried like any other. Between its steps, the generator yields the chunks that have come.

Most calls end in one place. A stream can end wherever its caller stops: at a `break`, at an exception in the loop, at
`close()`, when its task is cancelled, when its last reference goes, when its event loop is closed under it. In each
case two things must happen. The connection must close at once, because a provider may write and bill as long as
somebody seems to read. And the hold must end, because nobody else can spend its budget.

**`try: ... finally: close()` is not enough.** That is how a generator cleans up, and Python runs the `finally` when the
generator is closed. But the flow below does no I/O: it asks a driver to do it, by yielding a step. While Python closes
a generator, by GeneratorExit, it must not yield. And if a generator delegates by `yield from`, Python closes the inner
one by itself, so the outer one never gets a chance to pass on a step (PEP 380). An async generator has one more
problem. Only its event loop can await its cleanup, and the loop may be gone (PEP 525).

So leaving is an exception of our own. When the caller leaves a chunk, the driver catches GeneratorExit at its own
`yield` and throws `Leave` into the flow (`interface/streams.py`). To Python that is an exception like any other,
so the flow unwinds through its `finally` blocks and may yield one more step on the way out: `Close`. The driver runs or
awaits it, then the hold ends, and only then does the driver's own generator end. There are four ways out.

1. The caller leaves between two chunks: `Leave`, as above.
2. The task is cancelled, or the thread is interrupted, while the driver waits for bytes. The exception goes into the
   flow, which yields `Close` in the same way.
3. The coroutine that waits for bytes is closed, since its loop is torn down. Nothing can be awaited any more, so the
   driver throws `Leave` and takes `Close` in a third form, `abandon`, which closes the transport directly.
4. The flow itself is garbage. Then no driver is left to take a step, and `exchange` abandons the reply on its own.

A stream that is lost without being closed reaches one of these through its object (`interface/streams.py`). The
finalizer of an `LLMStream` closes it in a thread of its own, because the thread in which it runs may have any lock,
also that of the connection pool. The finalizer of an `AsyncLLMStream` asks its loop to close it, and abandons it if the
loop is closed. A fork does neither: the connection is its parent's.

**The bill.** The text that was seen proves nothing about the bill, so an abandoned stream is presumed, at its bound
(`budget/admission/booking.py`). Three cases are known better. If no byte of the request has left, the hold is released.
If the answer was whole, although its bytes had not ended, its usage is booked. And if the provider's own figures so
far, with the rest of the output limit, come to more than the hold, that is booked. `_conclude` settles the hold before
the last text is passed on, so a caller who leaves there pays for the usage and not for the bound.

PEP 533 describes this problem for all iterators in Python, and was deferred. Until something like it exists, only a
`with` block around a stream makes sure that it closes at once.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from llm_connect.budget.admission.holds import Hold, remember_own
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import (
    AsyncOpenReply,
    Breathe,
    Close,
    Exchange,
    Next,
    Open,
    OpenReply,
    Outcome,
    Patience,
)
from llm_connect.engine.flow import TOO_LATE, Call, not_read, read
from llm_connect.errors import LLMAPIError, LLMConnectionError
from llm_connect.interface.attempt import end_cut
from llm_connect.interface.config import RunConfig
from llm_connect.interface.streams import StreamFlow, StreamSource, nothing_yet
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import Answer, Failure, Reply, is_good
from llm_connect.types.chunks import TextChunk, chunks_of
from llm_connect.types.response import LLMResponse, Prompt

#: How long to wait for the end of the bytes after a whole answer, so that the connection can be reused.
_FOR_THE_END_SECONDS = 0.1


class Streamed:
    """Passes the answer of a call on while it arrives."""

    #: For the steps of an exchange that only `timeout_seconds` limits.
    _until_deadline: Patience

    def __init__(self, texts: list[str]) -> None:
        #: The texts that were passed on so far; the driver of the stream adds them.
        self.texts = texts
        self._length = 0
        self._outcome: Outcome | None = None
        self._reading: Reading = Reading()
        self._reply: OpenReply | AsyncOpenReply | None = None
        self._waiting_since = 0.0

    def exchange(self, call: Call, hold: Hold | None) -> Generator[Any, Any, Outcome]:
        request = call.begin(hold)
        if request is None:
            return TOO_LATE
        if hold is not None:
            # The caller goes on while it is open, so another call of the same caller must not wait for it.
            remember_own(hold)
        self._outcome, self._reading, self._reply = None, Reading(), None
        self._waiting_since, self._until_deadline = time.monotonic(), Patience(call.deadline)
        adapter, head = call.adapter, call.head
        reply = yield Open(adapter, self._patience(call), head, adapter.streamed(request))
        if isinstance(reply, Failure):
            return reply
        self._reply, head.headers = reply, reply.headers
        # Errors do not arrive as streams. A command has no status, and streams all of its output.
        self._reading = adapter.reading() if not reply.status or is_good(reply.status) else Reading()
        is_driven = True
        try:
            return (yield from self._read(call, hold, reply))
        except GeneratorExit:
            # The flow is garbage, with the event loop that was closed under it: nobody takes a step any more.
            is_driven = False
            raise
        finally:
            if is_driven:
                yield Close(reply)
            else:
                Close(reply).abandon()

    def _read(self, call: Call, hold: Hold | None, reply: OpenReply | AsyncOpenReply) -> Generator[Any, Any, Outcome]:
        adapter, head, reading, at_end = call.adapter, call.head, self._reading, False
        while self._outcome is None:
            patience = self._patience(call)
            piece = yield Breathe(patience, head) if reading.behind else Next(adapter, patience, head, reply)
            if isinstance(piece, Failure):
                return piece
            at_end = at_end or piece == b""
            try:
                texts = _taken(reading, piece)
            except Exception as error:
                return not_read(error)
            self._length += sum(map(len, texts))
            if self._length > adapter.max_reply_bytes:
                return _TOO_LONG
            if reading.ended or (at_end and not reading.behind):
                self._conclude(call, hold)
            if texts:
                yield [TextChunk(text) for text in texts]
                self._waiting_since = time.monotonic()
        if reading.ended:
            yield Next(adapter, Patience(Deadline(time.monotonic() + _FOR_THE_END_SECONDS)), head, reply)
        return self._outcome

    def _conclude(self, call: Call, hold: Hold | None) -> None:
        """Settle before passing on the last text: the caller may stop iterating there."""
        self._outcome = self._parsed(call) if self._reading.whole else _NO_END
        if hold is not None:
            call.end(hold, self._outcome)

    def end_cut(self, call: Call, hold: Hold) -> None:
        said = self._parsed(call)
        if self._reading.whole and isinstance(said, Answer):
            # The model had finished, although nobody waited for the end of the bytes.
            self._outcome = said
            call.end(hold, said)
        end_cut(hold, said)

    def _patience(self, call: Call) -> Patience:
        seconds = call.config.idle_seconds if self.texts else call.config.first_chunk_seconds
        if seconds is None or self._waiting_since + seconds >= call.deadline.at:
            return self._until_deadline
        until = Deadline(self._waiting_since + seconds)
        if self.texts:
            return Patience(until, "no further text came", "idle_seconds")
        return Patience(until, "no text came", "first_chunk_seconds")

    def _parsed(self, call: Call) -> Outcome:
        """Parse the part of the reply that has arrived, as without streaming."""
        return read(call.adapter, self._whole_reply)

    def _whole_reply(self) -> Reply:
        reply = self._reply
        if reply is None:
            return Reply(0, {}, self._reading.body)
        # A command has its headers only after its end.
        return Reply(reply.status, reply.headers, self._reading.body)

    def so_far(self, call: Call) -> LLMResponse:
        """The part of the response that has arrived."""
        said = self._outcome
        if not isinstance(said, Answer):
            request_id = call.adapter.scrubber.name(call.head.request_id)
            said = Answer(content="", model="", finish_reason="unknown", request_id=request_id)
        return call.response_of(replace(said, content="".join(self.texts)))


def _taken(reading: Reading, piece: bytes | None) -> list[str]:
    """The texts that bytes add to the answer, of no bytes those at its end; of None, what has come before."""
    if piece is None:
        return reading.go_on()
    return reading.feed(piece) if piece else reading.end()


class ProviderStream(StreamSource):
    """The source of a provider adapter's stream; its call begins when the caller asks for the first chunk."""

    def __init__(self, adapter: Exchange, prompt: Prompt, config: RunConfig) -> None:
        super().__init__()
        self._arguments = (adapter, prompt, config)
        self._streamed = Streamed(self._given)
        self._call: Call | None = None

    @property
    def response(self) -> LLMResponse:
        if self._response is not None:
            return self._response
        if self._call is not None:
            return self._streamed.so_far(self._call)
        adapter, _, config = self._arguments
        return nothing_yet(config.model_name or adapter.model)

    def _run(self) -> StreamFlow:
        self._call = Call(*self._arguments, self._streamed)
        try:
            self._response = yield from self._call.run()
            yield chunks_of(self._response, self.text)
        finally:
            self._response = self.response


_TOO_LONG = Failure(
    kind=LLMAPIError,
    message="The text of the stream is longer than max_reply_bytes: to read it, pass the adapter a larger one.",
)
_NO_END = Failure(
    kind=LLMConnectionError,
    message="The stream ended before the answer did: check the network and base_url.",
    retryable=True,
)
