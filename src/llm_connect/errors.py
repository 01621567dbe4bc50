"""Every error that leaves an adapter.

    LLMError
    ├── LLMConfigurationError (ValueError)   a value, key, extra or command is missing or wrong
    ├── LLMBudgetExceededError               the call does not fit its budget, and was not sent
    │   ├── LLMBudgetNeverFitsError          waiting does not help: change the call or the budget
    │   └── LLMBudgetWaitError               the call may fit later
    ├── LLMStoreError                        the store that keeps the budget cannot be used; nothing was sent
    ├── LLMTimeoutError                      `timeout_seconds` has passed
    ├── LLMConnectionError                   no connection, or it broke before the whole reply arrived
    ├── LLMSubprocessError                   a command-line provider failed
    └── LLMAPIError                          the provider replied, and the reply is an error
        ├── LLMRateLimitError                429: too many requests, or a quota is used up
        ├── LLMAuthenticationError           401 or 403: also an LLMConfigurationError
        └── LLMResponseError                 the reply cannot be read as the provider's format

`CancelledError`, `KeyboardInterrupt` and other `BaseException`s pass an adapter untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from decimal import Decimal

    from llm_connect.types.amounts import Amount
    from llm_connect.types.response import LLMResponse


class LLMError(Exception):
    """Base of all errors of this library. Its message is one line that says what happened and what to do.

        try:
            response = adapter.execute_prompt("Hello")
        except LLMError as error:
            log.warning("%s (request %s)", error, error.request_id)

    Guaranteed: neither the message nor an attribute except `cause` contains an API key, a header or the prompt. Errors
    can be pickled; pickling drops `cause`, because exceptions of other libraries may contain the request and its key.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: BaseException | None = None,
        context: dict[str, Any] | None = None,
        provider: str | None = None,
        model: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        attempts: int = 0,
        maybe_billed: bool | None = None,
        booked: Amount | None = None,
        ledger_entry: int | None = None,
        response: LLMResponse | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.context: dict[str, Any] = dict(context or {})
        self.provider = provider
        self.model = model
        self.request_id = request_id
        #: The seconds to wait before the next try, as the provider asked, or until the window of a budget opens.
        self.retry_after = retry_after
        #: The number of requests sent for this call.
        self.attempts = attempts
        #: True if the provider may charge for the last attempt; False if it is known not to.
        self.maybe_billed: bool = self._maybe_billed() if maybe_billed is None else maybe_billed
        #: The amount that this call added to its budget although it failed; None without a budget.
        self.booked = booked
        #: The id of the ledger entry of the last attempt, for `BudgetTracker.correct`; None if it has no entry.
        self.ledger_entry = ledger_entry
        #: The answer, if it was paid for although the call failed.
        self.response = response
        if cause is not None:
            self.__cause__: BaseException | None = cause

    def _maybe_billed(self) -> bool:
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__ | {"cause": None})


def _rebuild(kind: type[LLMError], message: str, state: dict[str, Any]) -> LLMError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class LLMConfigurationError(LLMError, ValueError):
    """A value, key, extra or command is missing or wrong; the message names it."""

    def _maybe_billed(self) -> bool:
        return False


class LLMStoreError(LLMError):
    """The store that keeps the budget cannot be reached, is too slow, or cannot be read; nothing was sent.

    store: the URL of the store, without its password.
    """

    def __init__(self, message: str, *, store: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.store = store

    def _maybe_billed(self) -> bool:
        return False


class LLMTimeoutError(LLMError):
    """The total time for waiting, sending, reading and retries, `RunConfig.timeout_seconds`, has passed."""


class LLMConnectionError(LLMError):
    """No connection could be made, or it broke before the whole reply arrived."""


class LLMSubprocessError(LLMError):
    """The command of a command-line provider failed, or its output could not be parsed."""

    def __init__(self, message: str, *, return_code: int | None = None, stderr: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.return_code = return_code
        #: The end of the command's standard error, scrubbed and capped.
        self.stderr = stderr


class LLMAPIError(LLMError):
    """The provider replied with an error."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 0,
        response_body: dict[str, Any] | None = None,
        **details: Any,
    ) -> None:
        self.status_code = status_code
        super().__init__(message, **details)
        #: Only `code`, `type`, `param` and `message` of the reply, scrubbed and capped.
        self.response_body: dict[str, Any] = dict(response_body or {})

    def _maybe_billed(self) -> bool:
        return not 400 <= self.status_code < 500


class LLMRateLimitError(LLMAPIError):
    """Too many requests, or a quota is used up; `retry_after` has the provider's delay in seconds, if it sent one."""


class LLMAuthenticationError(LLMAPIError, LLMConfigurationError):
    """The provider rejected the API key, or the key may not use this model."""


class LLMResponseError(LLMAPIError):
    """The reply is not in the provider's format: HTML, empty, cut off, or without an answer."""


#: Why a budget refused a call.
BudgetReason: TypeAlias = Literal[
    "never_fits", "window_full", "wait_expired", "refused", "closed", "unpriced", "unproven", "self_wait", "lease_lost"
]


class LLMBudgetExceededError(LLMError):
    """A budget refused a call before it was sent, because the call's upper bound does not fit.

        except LLMBudgetExceededError as error:
            print(error.reason, error.unit, error.requested, error.total, error.spent, error.held)

    It is an `LLMBudgetWaitError` if the same call may fit later, and an `LLMBudgetNeverFitsError` if not.

    reason:
        `never_fits`: the bound would not fit even with nothing in flight.
        `window_full`: it fits only after earlier spend has left the window of a limit with a period.
        `wait_expired`: the call waited for budget until `max_wait_seconds` had passed.
        `refused`: it may fit later, but the call must not wait.
        `closed`: its tracker, or one above it, is closed.
        `unpriced`: a USD limit applies, and no price is known.
        `unproven`: the budget is strict, and the bound is not proven.
        `self_wait`: at the end of the wait only holds of the same task or thread were in the way.
        `lease_lost`: the process was suspended for longer than the lease of its hold.
    unit: the unit that is short, "tokens", "calls" or "usd". The figures below are in this unit, USD as Decimal.
    path: the tracker that is short, as `parent/child`.
    total, spent, held: its limit, its spend, and its open holds.
    presumed: the part of `spent` that was booked without knowing the outcome.
    allotted: the amount that open allotments have set aside.
    requested: the upper bound of the call.
    missing: the smallest increase of the limit with which the call would fit.
    likely: an estimate of the tokens that the call would use; None if there is none.
    opens_at: for limits with a period, the time at which enough spend has left the window, if no hold is open then, in
        seconds since the epoch. None if the call need not wait for a window, or if that does not help.
    retry_after: the seconds from now until `opens_at`.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: BudgetReason,
        unit: Literal["tokens", "calls", "usd"] = "tokens",
        path: str = "",
        total: int | Decimal | None = None,
        spent: int | Decimal = 0,
        held: int | Decimal = 0,
        allotted: int | Decimal = 0,
        presumed: int | Decimal = 0,
        requested: int | Decimal = 0,
        missing: int | Decimal = 0,
        likely: int | None = None,
        opens_at: float | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details, maybe_billed=False)
        self.reason: BudgetReason = reason
        self.unit: Literal["tokens", "calls", "usd"] = unit
        self.path = path
        self.total = total
        self.spent = spent
        self.held = held
        self.allotted = allotted
        self.presumed = presumed
        self.requested = requested
        self.missing = missing
        self.likely = likely
        self.opens_at = opens_at

    @property
    def sliced(self) -> int | Decimal:
        """Deprecated: `allotted`."""
        return self.allotted


class LLMBudgetNeverFitsError(LLMBudgetExceededError):
    """Waiting does not help: `never_fits`, `closed`, `unpriced` or `unproven`. Change the call or the budget."""


class LLMBudgetWaitError(LLMBudgetExceededError):
    """The same call may fit later: `window_full`, `wait_expired`, `refused`, `self_wait` or `lease_lost`.

    except LLMBudgetWaitError as error:
        headers["Retry-After"] = str(math.ceil(error.retry_after or 1))
    """
