"""Every error that leaves an adapter.

    LLMError
    ├── LLMConfigurationError (ValueError)   a value, key, extra or command is missing or wrong
    ├── LLMBudgetExceededError               the call does not fit its budget, and was not sent
    │   ├── LLMBudgetNeverFitsError          waiting does not help: it has to be changed, or the budget
    │   └── LLMBudgetWaitError               it may fit later
    ├── LLMStoreError                        the store that keeps the budget cannot be used; nothing was sent
    ├── LLMTimeoutError                      `timeout_seconds` is over
    ├── LLMConnectionError                   no connection, or it broke before a whole reply was read
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
    """Base of all errors of this library: one line that says what happened and what to do.

        try:
            response = adapter.execute_prompt("Hello")
        except LLMError as error:
            log.warning("%s (request %s)", error, error.request_id)

    Never holds an API key, a header or the prompt. Can be pickled; `cause` is dropped by that, because
    exceptions of other libraries may hold the request with its key.
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
        #: Seconds to wait before the next try: as the provider asked, or until the window of a budget opens.
        self.retry_after = retry_after
        #: Requests that were sent for this call.
        self.attempts = attempts
        #: Whether the provider may charge for the last attempt; False where it is known that it does not.
        self.maybe_billed: bool = self._maybe_billed() if maybe_billed is None else maybe_billed
        #: What this call added to its budget although it failed; None without a budget.
        self.booked = booked
        #: The id of the ledger entry of the last attempt, for `BudgetTracker.correct`; None where there is none.
        self.ledger_entry = ledger_entry
        #: The answer, when one was paid for although the call failed.
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
    """A value, key, extra or command is missing or wrong; the text names it."""

    def _maybe_billed(self) -> bool:
        return False


class LLMStoreError(LLMError):
    """The store that keeps the budget cannot be reached, is too slow, or cannot be read; nothing was sent.

    store: its URL, without a password.
    """

    def __init__(self, message: str, *, store: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.store = store

    def _maybe_billed(self) -> bool:
        return False


class LLMTimeoutError(LLMError):
    """`RunConfig.timeout_seconds`, a total over waiting, sending, reading and retries, is over."""


class LLMConnectionError(LLMError):
    """No connection could be made, or it broke before a whole reply was read."""


class LLMSubprocessError(LLMError):
    """The command of a command-line provider failed or printed what cannot be read."""

    def __init__(self, message: str, *, return_code: int | None = None, stderr: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.return_code = return_code
        #: The end of what the command wrote to standard error, scrubbed and capped.
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
        #: `code`, `type`, `param` and `message` of the reply, scrubbed and capped; nothing else of it.
        self.response_body: dict[str, Any] = dict(response_body or {})

    def _maybe_billed(self) -> bool:
        return not 400 <= self.status_code < 500


class LLMRateLimitError(LLMAPIError):
    """Too many requests, or a quota is used up; `retry_after` holds the provider's wish, if it gave one."""


class LLMAuthenticationError(LLMAPIError, LLMConfigurationError):
    """The provider refuses the API key, or the key may not use this model."""


class LLMResponseError(LLMAPIError):
    """A reply came that is not the provider's format: HTML, empty, cut, or without an answer in it."""


#: Why a budget has refused a call.
BudgetReason: TypeAlias = Literal[
    "never_fits", "window_full", "wait_expired", "refused", "closed", "unpriced", "unproven", "self_wait", "lease_lost"
]


class LLMBudgetExceededError(LLMError):
    """A call was not sent, because its upper bound does not fit the budget.

    It is an `LLMBudgetWaitError` where the same call may fit later, else an `LLMBudgetNeverFitsError`.

        except LLMBudgetExceededError as error:
            print(error.reason, error.unit, error.requested, error.total, error.spent, error.held)

    reason: `never_fits` (not even with no hold open), `window_full` (only later, when what is spent has left the window
        of a limit with a period), `wait_expired`, `refused` (it fits later, but does not wait), `closed`, `unpriced` (a
        USD limit, and no price known), `unproven` (a strict budget, and a bound that is not proven), `self_wait` (it
        has waited for its own caller), `lease_lost` (its process was held up for longer than the lease of its hold).
    unit: what is short: "tokens", "calls" or "usd"; the figures are of that unit, USD as Decimal.
    path: the tracker that is short, as `parent/child`.
    total, spent, held: its limit, what is spent, and what open holds keep; `presumed` is the part of `spent` that
        was booked without knowing the outcome, `sliced` what open slices have set aside.
    requested: the upper bound of the call. likely: about what it would use, in tokens; None when nothing is known.
    missing: the smallest raise of the limit with which it would fit.
    opens_at: for limits with a period, when there is room by what leaves it, if no hold is open then: in seconds since
        the epoch; None when it needs none, or when that does not help. retry_after: the same in seconds from now.
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
        sliced: int | Decimal = 0,
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
        self.sliced = sliced
        self.presumed = presumed
        self.requested = requested
        self.missing = missing
        self.likely = likely
        self.opens_at = opens_at


class LLMBudgetNeverFitsError(LLMBudgetExceededError):
    """No waiting helps: `never_fits`, `closed`, `unpriced` or `unproven`. Change the call, or the budget."""


class LLMBudgetWaitError(LLMBudgetExceededError):
    """The same call may fit later: `window_full`, `wait_expired`, `refused`, `self_wait` or `lease_lost`.

    except LLMBudgetWaitError as error:
        headers["Retry-After"] = str(math.ceil(error.retry_after or 1))
    """
