"""The tree of errors: which class catches which error, their attributes, and pickling."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import Any

import pytest

import llm_connect
from llm_connect import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponse,
    LLMResponseError,
    LLMSubprocessError,
    LLMTimeoutError,
    Usage,
)

KINDS = [
    LLMError,
    LLMConfigurationError,
    LLMTimeoutError,
    LLMConnectionError,
    LLMSubprocessError,
    LLMAPIError,
    LLMRateLimitError,
    LLMAuthenticationError,
    LLMResponseError,
]
RESPONSE = LLMResponse(content="paid", model="m", usage=Usage(prompt_tokens=1, completion_tokens=1))


def full(kind: type[LLMError], **more: Any) -> LLMError:
    return kind(
        "what happened",
        context={"a": 1},
        provider="p",
        model="m",
        request_id="r",
        retry_after=1.5,
        attempts=3,
        ledger_entry=7,
        response=RESPONSE,
        **more,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_an_llm_error_and_tells_all_it_knows(kind: type[LLMError]) -> None:
    """LLMError catches every kind, and each kind carries provider, model, request id, retry_after, attempts and
    response. (ERROR-1, ERROR-2)
    """
    with pytest.raises(LLMError) as caught:
        raise full(kind)
    error = caught.value
    assert str(error) == error.message == "what happened"
    assert (error.provider, error.model, error.request_id) == ("p", "m", "r")
    assert (error.retry_after, error.attempts, error.context) == (1.5, 3, {"a": 1})
    assert error.ledger_entry == 7
    assert error.response is RESPONSE


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_known_is_none_zero_or_empty(kind: type[LLMError]) -> None:
    """An error made of a message alone has every attribute all the same. (ERROR-2)"""
    error = kind("x")
    assert (error.message, error.context, error.attempts) == ("x", {}, 0)
    unknown = (error.cause, error.provider, error.model, error.request_id, error.retry_after, error.response)
    assert unknown == (None,) * 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling_without_its_cause(kind: type[LLMError], protocol: int) -> None:
    """Class, message and all fields come back; the cause, which may contain a request and its key, does not.
    (ERROR-4)
    """
    error = full(kind, cause=ValueError("sk-secret"))
    error.add_note("a note")
    data = pickle.dumps(error, protocol)
    back = pickle.loads(data)
    assert b"sk-secret" not in data
    assert type(back) is kind
    assert str(back) == "what happened"
    assert vars(back) == vars(error) | {"cause": None}
    assert back.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [
        LLMAPIError("x", status_code=500, response_body={"code": "c"}),
        LLMRateLimitError("x", status_code=429),
        LLMSubprocessError("x", return_code=7, stderr="oh"),
    ],
)
def test_own_fields_of_a_kind_survive_pickling_and_copying(error: LLMError) -> None:
    """Status, body, return code and stderr come back from a pickle and from a copy. (ERROR-4)"""
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(back) is type(error)
        assert vars(back) == vars(error)


def test_a_failed_command_says_how_it_ended() -> None:
    """The error has the return code and the end of the output; None and "" if the command did not run to its end.
    (ERROR-2)
    """
    error = LLMSubprocessError("x", return_code=7, stderr="oh")
    assert (error.return_code, error.stderr) == (7, "oh")
    unknown = LLMSubprocessError("x")
    assert (unknown.return_code, unknown.stderr) == (None, "")


@pytest.mark.parametrize(
    ("kind", "details", "maybe"),
    [
        (LLMError, {}, True),
        (LLMTimeoutError, {}, True),
        (LLMConfigurationError, {}, False),
        (LLMAPIError, {}, True),
        (LLMAPIError, {"status_code": 399}, True),
        (LLMAPIError, {"status_code": 400}, False),
        (LLMAPIError, {"status_code": 499}, False),
        (LLMAPIError, {"status_code": 500}, True),
        (LLMAuthenticationError, {"status_code": 401}, False),
        (LLMAPIError, {"status_code": 400, "maybe_billed": True}, True),
        (LLMError, {"maybe_billed": False}, False),
    ],
)
def test_a_failed_call_may_have_been_billed_unless_it_was_refused(
    kind: type[LLMError], details: dict[str, Any], maybe: bool
) -> None:
    """Only a complete 4xx, or a request that was never sent, is known to cost nothing; the code that raises the error
    can override that. (ERROR-2)
    """
    assert kind("x", **details).maybe_billed is maybe


def test_a_refusal_of_which_only_the_reason_is_known() -> None:
    """The defaults describe tokens of an unnamed budget without a limit, in which nothing is spent, held or missing.
    (ERROR-2)
    """
    error = LLMBudgetExceededError("x", reason="refused")
    assert (error.reason, error.unit, error.path, error.total, error.likely) == ("refused", "tokens", "", None, None)
    figures = (error.spent, error.held, error.allotted, error.presumed, error.requested, error.missing)
    assert figures == (0,) * 6
    assert not error.maybe_billed


def test_an_api_error_without_a_status_has_status_0() -> None:
    """An unknown status is 0, which no provider can send. (ERROR-2)"""
    assert LLMAPIError("x").status_code == 0


class Tailored(LLMAPIError):
    """A subclass whose constructor has more arguments."""

    def __init__(self, must: str) -> None:
        super().__init__(f"needs {must}", status_code=418)
        self.must = must


def test_a_subclass_with_another_constructor_survives_pickling() -> None:
    """Unpickling does not call the constructor, because its arguments are not kept."""
    back = pickle.loads(pickle.dumps(Tailored("tea")))
    assert (type(back), str(back), back.must, back.status_code) == (Tailored, "needs tea", "tea", 418)


def test_a_cause_is_chained_for_the_traceback() -> None:
    """`cause` has the effect of `raise ... from`."""
    cause = OSError("disk")
    error = LLMError("x", cause=cause)
    assert error.cause is error.__cause__ is cause
    assert "OSError: disk" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (LLMConfigurationError, (ValueError,)),
        (LLMRateLimitError, (LLMAPIError,)),
        (LLMAuthenticationError, (LLMAPIError, LLMConfigurationError)),
        (LLMResponseError, (LLMAPIError,)),
    ],
)
def test_the_tree_lets_callers_catch_at_the_level_they_care_about(
    kind: type[LLMError], bases: tuple[type[Exception], ...]
) -> None:
    """Each documented base catches a kind. (ERROR-1)"""
    for base in bases:
        with pytest.raises(base):
            raise kind("x")


@pytest.mark.parametrize("kind", [LLMTimeoutError, LLMConnectionError, LLMSubprocessError])
def test_a_call_without_a_reply_is_no_api_error(kind: type[LLMError]) -> None:
    """LLMAPIError means that the provider has replied. (ERROR-1)"""
    assert not issubclass(kind, LLMAPIError)


def test_mutable_arguments_are_copied() -> None:
    """Later changes of a dict that was passed to an error do not change the error."""
    context: dict[str, Any] = {"a": 1}
    body: dict[str, Any] = {"code": 1}
    error = LLMAPIError("x", context=context, response_body=body)
    context["a"] = body["code"] = 2
    assert (error.context, error.response_body) == ({"a": 1}, {"code": 1})


def test_every_error_is_public() -> None:
    """Each kind can be imported from the package itself."""
    assert {kind.__name__ for kind in KINDS} <= set(llm_connect.__all__)
