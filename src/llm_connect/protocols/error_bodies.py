"""Reads error bodies in every form that a provider's server, or a gateway before it, writes them.

Known forms: OpenAI's and Google's `error`, also within a list; FastAPI's `detail`; vLLM's flat object; `message`,
`errors` and problem details (RFC 9457); OpenRouter's `metadata.raw`; plain text; a page of HTML or XML. Any other JSON
is shown as it is.
"""

from __future__ import annotations

import html
import json
import re
from contextlib import suppress
from dataclasses import dataclass

from llm_connect._validation import encodable
from llm_connect.protocols.wire import JSON, MOST_READ, loaded, mapping, objects, shown, text

#: The fields for the words of an error, the most specific first.
_WORDS = (
    "message",
    "error_message",
    "errormessage",
    "error_msg",
    "status_msg",
    "detail",
    "details",
    "error_description",
    "msg",
    "error",
    "errors",
    "exception",
    "base_resp",
    "fault",
    "faultstring",
    "title",
    "reason",
    "description",
    "text",
)
#: The fields that may wrap an error.
_WRAPPERS = ("error", "errors", "detail", "fault")
_STATUSES = ("code", "status", "status_code", "statusCode", "http_status")
#: The HTTP status for a word (in lower case, without punctuation) in an error that arrives under 200.
_STATUS_OF_WORD = {
    "servererror": 500,
    "internalservererror": 500,
    "apierror": 500,
    "internal": 500,
    "unavailable": 503,
    "overloadederror": 529,
    "ratelimitexceeded": 429,
    "ratelimiterror": 429,
    "toomanyrequests": 429,
    "resourceexhausted": 429,
    "insufficientquota": 429,
    "invalidrequesterror": 400,
    "badrequesterror": 400,
    "invalidargument": 400,
    "contextlengthexceeded": 400,
    "authenticationerror": 401,
    "unauthenticated": 401,
    "permissionerror": 403,
    "permissiondenied": 403,
    "notfounderror": 404,
}
_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"})
_LONG_PERIOD = re.compile(r"per[\s_-]?(?:day|week|month)|\b(?:daily|weekly|monthly)\b|\b[rt]pd\b", re.IGNORECASE)
_SHORT_PERIOD = re.compile(r"per[\s_-]?(?:min|sec|hour)|\b[rt]pm\b", re.IGNORECASE)
_NOTHING_ALLOWED = re.compile(r"\blimit: 0\b")
_DEPTH = 6
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*(?:>|\Z)")
#: The most of a page that is read.
_MOST_PAGE_BYTES = 8192
#: A little more than is shown of an error.
_SHOWN_CHARACTERS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFields:
    """The content of an error body, in one form for all providers.

    status: the HTTP status that it means, from 400 to 599. wait: seconds until a retry makes sense. used_up: True for a
    quota that is not renewed within a day. bad_key: True if it refuses the key.
    """

    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None
    status: int | None = None
    wait: float | None = None
    used_up: bool = False
    bad_key: bool = False

    def public(self) -> JSON:
        """The parts of the body that an error may carry."""
        values = {"code": self.code, "type": self.type, "param": self.param, "message": self.message}
        return {name: shown(value) for name, value in values.items() if value not in (None, "")}


def read_error(said: object) -> ErrorFields:
    """Read an error from the result of `said_in`."""
    inner = _inner(said)
    details = objects(inner.get("details")) or [mapping(inner.get("details"))]
    reason = next((text(detail.get("reason")) for detail in details if detail.get("reason")), "")
    message = _message(said, inner)[:MOST_READ]
    code, kind = reason[:MOST_READ] or _code(inner), _type(inner)
    return ErrorFields(
        message=message,
        code=code,
        type=kind,
        param=text(inner.get("param"))[:MOST_READ] or None,
        status=status_in(inner),
        wait=next((wait for detail in details if (wait := _delay(detail.get("retryDelay"))) is not None), None),
        used_up=bool(_USED_UP & {code, kind}) or _is_used_up(message, details),
        bad_key=reason == "API_KEY_INVALID",
    )


def said_in(body: bytes) -> object:
    """The content of an error reply's body: JSON, else the words of a text or a page."""
    try:
        return loaded(body)
    except (ValueError, RecursionError):
        return words_of_page(body)


def words_of_page(body: bytes) -> str:
    """The text of plain text, HTML or XML; empty if the body is not text."""
    said = body[:_MOST_PAGE_BYTES].decode("utf-8", "replace")
    if said.count("\ufffd") * 10 > len(said):
        return ""
    if said.lstrip()[:1] == "<":
        said = html.unescape(_TAG.sub(" ", _UNSEEN.sub(" ", said)))
    return " ".join(said.split())


def _inner(said: object, depth: int = _DEPTH) -> JSON:
    """The object with code and type, completed from the objects around it."""
    if isinstance(said, list):
        said = next(iter(objects(said)), {})
    if not isinstance(said, dict) or not depth:
        return {}
    wrapped = next((said[name] for name in _WRAPPERS if isinstance(said.get(name), dict | list) and said[name]), None)
    if wrapped is None:
        wrapped = mapping(said.get("x_groq")).get("error")
    return {**said, **_inner(wrapped, depth - 1)}


def _message(said: object, inner: JSON) -> str:
    words = words_of(said)
    raw = _raw_words(inner)
    if raw and raw not in words:
        return encodable(f"{words}: {raw}" if words else raw)
    if not words and not inner.get("code") and not inner.get("type") and isinstance(said, dict | list) and said:
        words = _beginning(said)
    return encodable(words)


def _raw_words(inner: JSON) -> str:
    """The words of the provider behind a gateway; OpenRouter passes its error on as it is, mostly as a text."""
    raw = mapping(inner.get("metadata")).get("raw")
    return words_of(said_in(raw.encode("utf-8", "replace")) if isinstance(raw, str) else raw)


def _beginning(said: object) -> str:
    """The beginning of a value as JSON; an error may hold megabytes, or be nested deeper than Python goes."""
    written = ""
    with suppress(RecursionError):
        for piece in json.JSONEncoder(ensure_ascii=False).iterencode(said):
            written += piece
            if len(written) > _SHOWN_CHARACTERS:
                break
    return written


def words_of(said: object, depth: int = _DEPTH) -> str:
    """The words of an error; empty if no field has them."""
    if isinstance(said, str):
        return said.strip()
    if isinstance(said, list):
        return "; ".join(filter(None, (words_of(item, depth - 1) for item in said[:3] if depth)))
    if not isinstance(said, dict) or not depth:
        return ""
    named = {name.lower(): value for name, value in said.items()}
    named.setdefault("error", mapping(said.get("x_groq")).get("error"))
    words = next((found for name in _WORDS if (found := words_of(named.get(name), depth - 1))), "")
    place = named.get("loc")
    return f"{'.'.join(map(str, place))}: {words}" if words and isinstance(place, list) and place else words


def _code(inner: JSON) -> str | int | None:
    """The code. If Google has a word in `status`, its number is only the HTTP status again."""
    code = inner.get("code")
    if isinstance(code, int) and not isinstance(code, bool):
        return None if text(inner.get("status")) else code
    return text(code)[:MOST_READ] or None


def _type(inner: JSON) -> str | None:
    kinds = (text(inner.get(name)) for name in ("type", "status"))
    return next((kind[:MOST_READ] for kind in kinds if kind and kind != "error"), None)


def status_in(inner: JSON) -> int | None:
    """The HTTP status that an error means, by its number or else by a word."""
    said = [inner.get(name) for name in _STATUSES]
    number = next((value for value in said if isinstance(value, int) and 400 <= value < 600), None)
    words = (value for value in (*said[:2], inner.get("type")) if isinstance(value, str))
    return number or next(filter(None, map(_status_of, words)), None)


def _status_of(word: str) -> int | None:
    return _STATUS_OF_WORD.get("".join(filter(str.isalpha, word)).lower())


def _delay(value: object) -> float | None:
    """A protobuf duration, as JSON writes it ("7.5s") or as an object."""
    value = value.get("seconds") if isinstance(value, dict) else value
    return seconds(value.removesuffix("s") if isinstance(value, str) else value)


def seconds(value: object) -> float | None:
    """A wait in seconds, which may be written as text; None if it is invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < float("inf") else None


def _is_used_up(message: str, details: list[JSON]) -> bool:
    """True if waiting will not help soon. Google names each quota; others describe it in words."""
    if _NOTHING_ALLOWED.search(message):
        return True
    violations = [violation for detail in details for violation in objects(detail.get("violations"))]
    quotas = " ".join(text(violation.get("quotaId")) for violation in violations)
    quotas += " ".join(text(mapping(detail.get("metadata")).get("quota_limit")) for detail in details)
    if quotas.strip():
        return _LONG_PERIOD.search(quotas[:MOST_READ]) is not None
    return bool(_LONG_PERIOD.search(message)) and not _SHORT_PERIOD.search(message)
