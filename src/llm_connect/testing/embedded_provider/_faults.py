"""An error before it takes a provider's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._behaviour import Behaviour

_MESSAGES = {
    400: "The request is not valid.",
    401: "The API key is missing or not valid.",
    402: "There is not enough credit left.",
    403: "This key may not do that.",
    404: "There is no such resource.",
    408: "The request took too long.",
    413: "The request is too large.",
    422: "The request cannot be processed.",
    429: "Too many requests; slow down.",
    500: "Something went wrong on the provider's side.",
    502: "The upstream model gave no valid answer.",
    503: "The model is overloaded.",
    504: "The upstream model took too long.",
    529: "The model is overloaded.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error; each wire format writes it in its own form. None means the format's default."""

    status: int
    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    retry_after: float | None = None
    key: Literal["missing", "bad"] | None = None

    @classmethod
    def of(cls, behaviour: Behaviour) -> Fault:
        """The error that a behaviour asks for."""
        status = behaviour.status if behaviour.status is not None else 502
        return cls(
            status=status,
            message=behaviour.error_message or _MESSAGES.get(status, "The request failed."),
            type=behaviour.error_type,
            code=behaviour.error_code,
            retry_after=behaviour.retry_after,
        )


class InvalidRequest(Exception):
    """The request breaks the provider's rules; answered with `fault`, never billed."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.fault: Fault = Fault(status=400, message=message, param=param)
