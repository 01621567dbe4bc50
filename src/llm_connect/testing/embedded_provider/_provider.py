"""The embedded provider: a model provider on loopback, for tests and demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

from ._answer import Author, Reply
from ._behaviour import Behaviour, Script
from ._http_server import LoopbackServer
from ._meter import Meter, Tariff
from ._questions import Generations
from ._received import Question, ReceivedRequest, RequestLog, WireFormat
from ._reception import Reception


class EmbeddedProvider:
    """A model provider in this process that speaks OpenAI's, Gemini's, OpenRouter's and Anthropic's formats.

        with EmbeddedProvider(reply_tokens=40) as provider:
            client = OpenAI(base_url=provider.openai_url, api_key="any")
            provider.script(Behaviour(status=429, retry_after=1), times=1)
            ...
            assert provider.meter.total_tokens == tracker.spent

    It answers with generated text that keeps to the request's output limit, or with a sample that fits the
    requested JSON schema; bills on its `meter` when a request arrives; keeps the last requests; and
    fails on demand (`script`). Any key but "bad" is accepted. Free of charge it counts the tokens of a prompt
    (`/responses/input_tokens`, `:countTokens`, `/messages/count_tokens`) and reports the cost of one of the last
    answers in OpenRouter's format (`/generation`).

    - `reply_tokens`: length of a generated answer in tokens (one word is one token); "limit" or None fills
      the output limit of the request, and 1,024 tokens where there is none.
    - `reply`: writes the answer instead; called in the server's thread, so it must be quick. Its text is cut
      at the output limit. When it raises, the request is answered with 500 and not billed.
    - `count_tokens`: tokens of a prompt; the default is one token for 4.25 characters.
    - `tariff`: USD per million tokens, as reported in OpenRouter's replies and on the meter.
    - `keep_requests`: how many requests are remembered; bodies are kept whole.

    Guarantees: any number of connections in one thread; nothing is printed or logged; no key is kept; after
    `close` no thread, socket or task is left. Limits: loopback only, no TLS, text only (images are ignored, and so
    are tools, unless the request forces a call: that is made, with arguments that fit its schema), bodies up to
    256 MiB, and the process's limit of open files.
    """

    def __init__(
        self,
        *,
        reply_tokens: int | Literal["limit"] | None = 40,
        reply: Reply | None = None,
        count_tokens: Callable[[str], int] | None = None,
        tariff: Tariff | None = None,
        keep_requests: int = 1000,
    ) -> None:
        length = "limit" if reply_tokens is None else reply_tokens
        if length != "limit" and (type(length) is not int or length < 1):
            raise ValueError(f"reply_tokens is a number of at least 1, or 'limit', not {reply_tokens!r}")
        self.meter: Meter = Meter()
        self._script = Script()
        self._log = RequestLog(keep_requests)
        self._questions = RequestLog(keep_requests)
        tariff = tariff or Tariff()
        if count_tokens is not None:
            tariff = replace(tariff, count_tokens=count_tokens)
        author = Author(reply=reply, reply_tokens=length, tariff=tariff)
        self._generations = Generations(keep_requests)
        reception = Reception(
            author=author,
            meter=self.meter,
            script=self._script,
            log=self._log,
            questions=self._questions,
            generations=self._generations,
        )
        self._server = LoopbackServer(reception.handle)

    def start(self) -> Self:
        """Begins to serve; `with` does it by itself. A provider starts once."""
        self._server.start()
        return self

    def close(self) -> None:
        """Drops all connections and stops serving; may be called again. The meter and the requests remain."""
        self._server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The server's root, without a slash at its end."""
        if self._server.port is None:
            raise RuntimeError("the provider is not running: use `with EmbeddedProvider() as provider`")
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def openai_url(self) -> str:
        """The `base_url` for OpenAI's SDK."""
        return f"{self.url}/v1"

    @property
    def openrouter_url(self) -> str:
        """The base URL of OpenRouter's API."""
        return f"{self.url}/api/v1"

    @property
    def gemini_url(self) -> str:
        """The `base_url` for Google's SDK, which adds the API version itself."""
        return self.url

    @property
    def anthropic_url(self) -> str:
        """The ANTHROPIC_BASE_URL for the claude command."""
        return self.url

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The last requests to a model, oldest first, refused ones included."""
        return self._log.all()

    @property
    def connections(self) -> int:
        """The number of clients that are connected now."""
        return self._server.connections

    def wait_for_requests(self, count: int, *, timeout: float = 5.0) -> None:
        """Returns when `count` requests have arrived in all; TimeoutError after `timeout` seconds. Blocks."""
        if not self._log.wait_for(count, timeout):
            raise TimeoutError(f"fewer than {count} requests arrived within {timeout:g} s")

    @property
    def questions(self) -> list[ReceivedRequest]:
        """The last requests to count the tokens of a prompt, oldest first; they are not among `requests`."""
        return self._questions.all()

    def script(
        self,
        behaviour: Behaviour,
        *,
        times: int | None = None,
        wire_format: WireFormat | Question | None = None,
    ) -> None:
        """Sets the behaviour for the next `times` requests, or (None) for all that follow.

        Several counted behaviours are used up one after the other before a standing one applies; the last standing
        one counts. With `wire_format`, only requests of that format are meant. "count_tokens" and "generation"
        mean the requests for a token count, and for the cost of a generation, in any format; nothing else means
        these.
        """
        self._script.add(behaviour, times=times, wire_format=wire_format)

    def reset(self) -> None:
        """Forgets behaviours and requests, and sets the meter to zero."""
        self._script.clear()
        self._log.clear()
        self._questions.clear()
        self._generations.clear()
        self.meter.reset()

    def __repr__(self) -> str:
        state = "not started" if self._server.port is None else self.url
        return f"<EmbeddedProvider {state} {self.meter!r}>"
