"""From an HTTP request to its reply: read it, check it, bill it, answer it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from ._answer import Answer, Author
from ._behaviour import Behaviour, Script
from ._faults import Fault, InvalidRequest
from ._http_messages import HttpReply, HttpRequest
from ._meter import Meter
from ._questions import Generation, Generations, NoSuchGeneration, count_reply, counted_body
from ._received import Question, ReceivedRequest, RequestLog
from ._routing import Route, route_of
from .wire import WIRES, Asked

_SECRET_HEADERS = frozenset(
    ("authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie")
)
_BAD_KEY = "bad"
_EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """Answers every request; `handle` never raises and never blocks."""

    author: Author
    meter: Meter
    script: Script
    log: RequestLog
    questions: RequestLog
    generations: Generations
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def handle(self, http: HttpRequest) -> HttpReply:
        """The reply to a request; a failing `reply` or `count_tokens` function is answered with 500."""
        route = route_of(http.target)
        if http.method == "HEAD" and route.path == "/":
            return HttpReply()
        if not route.known or http.method != route.method:
            status = 405 if route.known else 404
            message = f"There is no {http.method} {route.path}."
            return self._refusal(route, Fault(status=status, message=message))
        try:
            return self._answer(http, route) if route.question is None else self._tell(http, route, route.question)
        except NoSuchGeneration as error:
            return self._refusal(route, error.fault)
        except InvalidRequest as error:
            self.meter.refuse()
            return self._refusal(route, error.fault)
        except Exception as error:
            self.meter.refuse()
            message = f"The embedded provider could not answer: {error!r}"
            return self._refusal(route, Fault(status=500, message=message, type="embedded_provider_error"))

    def _answer(self, http: HttpRequest, route: Route) -> HttpReply:
        wire = WIRES[route.wire_format]
        body = _json_object(http.body)
        asked = wire.read(body)
        request = _received(http, route, body, asked)
        try:
            refusal = self._bad_key(http, route)
            if refusal is not None:
                self.meter.refuse()
            return refusal or self._serve(request, asked, route)
        finally:
            self.log.add(request)

    def _tell(self, http: HttpRequest, route: Route, question: Question) -> HttpReply:
        """The answer to a question, which is not billed."""
        refusal = self._bad_key(http, route)
        if refusal is not None:
            return refusal
        behaviour = self.script.take(question)
        told = self._count(http, route, behaviour) if question == "count_tokens" else self._generation(route)
        reply = self._failure(behaviour, route) or HttpReply(body=_encoded(told))
        return _overridden(reply, behaviour)

    def _count(self, http: HttpRequest, route: Route, behaviour: Behaviour) -> dict[str, Any]:
        body = counted_body(route.wire_format, _json_object(http.body))
        request = _received(http, route, body, WIRES[route.wire_format].read(body))
        self.questions.add(request)
        return count_reply(route.wire_format, self.author.prompt_tokens(request, behaviour))

    def _generation(self, route: Route) -> dict[str, Any]:
        return self.generations.told(route.query.get("id", ""))

    def _bad_key(self, http: HttpRequest, route: Route) -> HttpReply | None:
        key = WIRES[route.wire_format].key(http.headers, route.query)
        return self._refusal(route, _key_fault(key)) if key in (None, _BAD_KEY) else None

    def _serve(self, request: ReceivedRequest, asked: Asked, route: Route) -> HttpReply:
        behaviour = self.script.take(request.wire_format)
        answer = self.author.answer(request, asked.schema, behaviour)
        if behaviour.is_billed:
            self.meter.bill(
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                cost=answer.cost,
            )
        else:
            self.meter.refuse()
        streams = WIRES[request.wire_format].streams(request)
        reply = self._failure(behaviour, route, streams=streams) or self._success(request, answer, behaviour)
        return _overridden(reply, behaviour)

    def _success(self, request: ReceivedRequest, answer: Answer, behaviour: Behaviour) -> HttpReply:
        number, wire = next(self._numbers), WIRES[request.wire_format]
        message = wire.reply(request, answer, behaviour, number)
        headers = wire.headers(number)
        if request.wire_format == "openrouter":
            self.generations.add(number, Generation(request, answer, behaviour.byok))
        if not wire.streams(request):
            return HttpReply(body=_encoded(message), headers=headers)
        events = wire.events(request, message)
        parts = events.all
        if behaviour.error_in_200:
            parts = (*events.begun(behaviour.pieces or 0), wire.error_event(wire.error(Fault.of(behaviour))))
        elif behaviour.cut_stream or behaviour.stall == "in_stream":
            parts = events.begun(behaviour.pieces)
        # A stream that stalls has announced more than it sends.
        announced = events.all if behaviour.stall == "in_stream" else parts
        return HttpReply(content_type=_EVENT_STREAM, body=b"".join(announced), parts=parts, headers=headers)

    def _failure(self, behaviour: Behaviour, route: Route, *, streams: bool = False) -> HttpReply | None:
        if behaviour.redirect is not None:
            return HttpReply(status=307, headers={"location": behaviour.redirect})
        if not behaviour.fails or (behaviour.error_in_200 and streams):
            return None
        reply = self._refusal(route, Fault.of(behaviour))
        return replace(reply, status=200) if behaviour.error_in_200 else reply

    def _refusal(self, route: Route, fault: Fault) -> HttpReply:
        wire = WIRES[route.wire_format]
        error = wire.error(fault)
        headers = wire.headers(next(self._numbers))
        status = fault.status
        if route.wire_format == "generate_content":
            status = error["error"]["code"]
        elif fault.retry_after is not None:
            headers["retry-after"] = f"{fault.retry_after:g}"
        return HttpReply(status=status, body=_encoded(error), headers=headers)


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not a JSON object.")
    return body


def _received(http: HttpRequest, route: Route, body: Mapping[str, Any], asked: Asked) -> ReceivedRequest:
    return ReceivedRequest(
        wire_format=route.wire_format,
        path=route.path,
        headers={name: "present" if name in _SECRET_HEADERS else value for name, value in http.headers.items()},
        body=body,
        model=asked.model or route.model or "",
        output_limit=asked.output_limit,
        choices=asked.choices,
        system_prompt="\n".join(asked.system),
        prompt="\n".join(asked.conversation),
    )


def _key_fault(key: str | None) -> Fault:
    if key is None:
        return Fault(status=401, message="There is no API key in the request.", key="missing")
    return Fault(status=401, message="The API key is not valid.", key="bad")


def _overridden(reply: HttpReply, behaviour: Behaviour) -> HttpReply:
    return replace(
        reply,
        body=reply.body if behaviour.body is None else behaviour.body,
        parts=reply.parts if behaviour.body is None else None,
        content_type=behaviour.content_type or reply.content_type,
        headers={**reply.headers, **behaviour.headers},
        pace=behaviour.pace,
    )


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()
