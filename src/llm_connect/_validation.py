"""Validation of arguments, with errors that name the valid values."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llm_connect.errors import LLMConfigurationError

#: The number of characters of an invalid value that an error shows.
_LONGEST = 100


def check_name(name: object) -> None:
    """Raise LLMConfigurationError for a name that is not text, is blank, or cannot be encoded."""
    if not isinstance(name, str) or not name.strip():
        raise LLMConfigurationError("name must be text that is not blank.")
    check_encodable("name", name)


def check_count(name: str, value: object, *, least: int, most: float = math.inf, optional: bool = False) -> None:
    """Raise LLMConfigurationError unless `value` is an int from `least` to `most`, or None if `optional`; no bools."""
    if (type(value) is int and least <= value <= most) or (value is None and optional):
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise LLMConfigurationError(f"{name} must be a whole number of at least {least}, not {shown_value(value)}.")
    if value > most:
        raise LLMConfigurationError(f"{name} must be at most {most:,}, not {shown_value(value)}.")


def shown_value(value: object) -> str:
    """An invalid value as an error shows it."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    optional: bool = False,
) -> None:
    """Raise LLMConfigurationError unless `value` is a finite number in the range, or None if `optional`; no bools."""
    if value is None and optional:
        return
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and _is_finite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
    ):
        return
    floor = f"at least {least}" if least is not None else f"above {above}"
    raise LLMConfigurationError(f"{name} must be a finite number {floor}, not {shown_value(value)}.")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_text(name: str, value: object, *, may_be_blank: bool) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise LLMConfigurationError(f"{name} must be text or None, not {type(value).__name__}.")
    if not may_be_blank and not (value.strip() and value.isprintable()):
        raise LLMConfigurationError(f"{name} must be one line of text that is not blank: leave it out, or name one.")
    check_encodable(name, value)


def check_line(name: str, value: object) -> None:
    """Raise LLMConfigurationError unless `value` is None or a printable line, because reports print it unchanged."""
    check_text(name, value, may_be_blank=True)
    if isinstance(value, str) and not value.isprintable():
        raise LLMConfigurationError(f"{name} contains line breaks or control characters: remove them.")


def check_encodable(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise LLMConfigurationError(
            f"The {name} contains lone surrogates, which UTF-8 cannot encode: decode it with errors='replace'."
        ) from None


def checked_text(name: str, text: object) -> str:
    """`text` in a form that UTF-8 can encode. Raises LLMConfigurationError if it is not text."""
    if not isinstance(text, str):
        raise LLMConfigurationError(f"{name} must be text or None, not {type(text).__name__}.")
    return encodable(text)


def encodable(text: str) -> str:
    """`text` with `?` in place of lone surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def check_labels(labels: object) -> None:
    """Raise LLMConfigurationError unless `labels` is a mapping from text to text that UTF-8 can encode."""
    check_mapping("labels", labels, value_type=str)
    for name, value in labels.items():  # type: ignore[attr-defined]
        check_encodable("labels", name + value)


def check_mapping(name: str, value: object, *, value_type: type) -> None:
    fits = isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(item, value_type) for key, item in value.items()
    )
    if not fits:
        kind = "text" if value_type is str else "values"
        raise LLMConfigurationError(f"{name} must be a mapping from text to {kind}.")
