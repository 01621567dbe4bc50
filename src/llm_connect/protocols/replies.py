"""Reads a whole reply of any HTTP format: the answer or the failure in it, its usage, its cost and its ids.

Each format says in one table, its `Format`, where its replies have these; a stream is assembled into the same reply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from llm_connect.errors import LLMResponseError
from llm_connect.protocols.error_bodies import said_in, status_in, words_of_page
from llm_connect.protocols.http_failures import error_reply
from llm_connect.protocols.usage_figures import FigureNames, figure, told_in
from llm_connect.protocols.wire import (
    JSON,
    Answer,
    Failure,
    Reply,
    first,
    is_good,
    loaded,
    mapping,
    object_in,
    objects,
    request_id_in,
    shown,
    text,
)
from llm_connect.types.response import FinishReason

#: Reads the cost from the usage of a call, given the model that answered; None if there is no cost.
CostIn: TypeAlias = Callable[[JSON, str], Decimal | None]


class Said(NamedTuple):
    """The model's words in a reply. A refusal is the content if there is no other."""

    content: str
    finish: FinishReason
    refusal: object = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How the replies of one wire format differ from those of others.

    choices: the name of the list of answers, or of the parts of one; the functions get the objects in it.
    answer: reads the answer in a body without an error, or returns the failure that it is.
    wrote: True if the model wrote anything: text, calls, thinking, or as much as its limit allowed.
    usage: finds the account of tokens. figures: the names of the figures in it.
    model, request_id: the names of these fields. service_tier: the name of the tier by whose prices the provider served
        the request; None if the format has no such field.
    """

    choices: str
    answer: Callable[[Reply, JSON, list[JSON]], Said | Failure]
    wrote: Callable[[JSON, list[JSON]], bool]
    usage: Callable[[JSON, list[JSON]], JSON]
    figures: FigureNames
    model: str = "model"
    request_id: str = "id"
    service_tier: str | None = "service_tier"


def parse(reply: Reply, form: Format, cost_in: CostIn | None = None) -> Answer | Failure:
    """Parse a reply into an answer or a failure; both carry the usage and the cost in it."""
    body, failure = answer_in(reply)
    choices, model = objects(body.get(form.choices)), text(body.get(form.model))
    usage = form.usage(body, choices)
    figures = told_in(body, usage, form.figures, lambda: form.wrote(body, choices))
    cost = None if cost_in is None else cost_in(usage, model)
    source = None if cost is None else "provider"
    said = failure or form.answer(reply, body, choices)
    if isinstance(said, Failure):
        return replace(said, usage=figures.usage, used_at_least=figures.least, cost=cost, cost_source=source)
    content, finish = text(said.content), said.finish
    if not content and (refusal := text(said.refusal)):
        content, finish = refusal, "content_filter"
    return Answer(
        content=content,
        model=model,
        finish_reason=finish,
        usage=figures.usage,
        used_at_least=figures.least,
        cost=cost,
        cost_source=source,
        service_tier=(form.service_tier and text(body.get(form.service_tier))) or None,
        request_id=request_id_in(reply.headers) or text(body.get(form.request_id)) or None,
        hint=None if content else spent_on_thinking(finish),
    )


def spent_on_thinking(finish: FinishReason) -> str | None:
    """The hint for an answer without any text, if it ended at its limit."""
    if finish != "length":
        return None
    return "The output limit was used up before any text was written, for example by thinking: raise max_tokens."


def answer_in(reply: Reply) -> tuple[JSON, Failure | None]:
    """The object in a reply, and the failure that its status or its content means; None if it may be an answer."""
    if not is_good(reply.status):
        said = said_in(reply.body)
        return mapping(said), error_reply(reply, said)
    body = object_in(reply.body)
    if body is not None:
        return body, error_reply(reply, body) if tells_of_error(body) else None
    inner = first(said_in(reply.body))
    return (inner, error_reply(reply, inner)) if tells_of_error(inner) else ({}, _no_object(reply))


def unreadable(reply: Reply, what: str) -> Failure:
    """The failure of a reply with a good status and no answer; it may have been billed."""
    return Failure(
        kind=LLMResponseError,
        message=f"The reply (HTTP {reply.status}) {what}: check that base_url names the provider's API.",
        request_id=request_id_in(reply.headers),
        details={"status_code": reply.status},
    )


def counted_in(reply: Reply, name: str) -> int | None:
    """The count in the reply of an endpoint that counts tokens; None if it has none."""
    return figure((object_in(reply.body) or {}).get(name)) if is_good(reply.status) else None


def tells_of_error(said: JSON) -> bool:
    """True if an object that should be an answer, or a piece of one, is an error instead."""
    if said.get("error"):
        return not text(said.get("type")).startswith("response.")
    if said.get("choices") or said.get("candidates"):
        return False
    if mapping(said.get("x_groq")).get("error") or said.get("errors") or said.get("detail"):
        return True
    kind = text(said.get("type")) or text(said.get("object"))
    if kind:
        return "error" in kind.lower() and not kind.startswith("response.")
    named = (said.get(name) for name in ("message", "Message", "error_message", "msg"))
    return said.get("success") is False or any(map(text, named)) or status_in(said) is not None


def _no_object(reply: Reply) -> Failure:
    """The failure of a reply that is not a JSON object."""
    try:
        value = loaded(reply.body)
    except (ValueError, RecursionError):
        return unreadable(reply, f"is not JSON but {_describe(reply.body)}")
    return unreadable(reply, f"is a JSON {type(value).__name__}, not an object")


def _describe(body: bytes) -> str:
    if not body.strip():
        return "empty"
    kind = "HTML" if body.lstrip()[:1] == b"<" else "broken or other text"
    words = shown(words_of_page(body))
    return f"{kind} ({words})" if words and body.lstrip()[:1] not in b"{[" else kind
