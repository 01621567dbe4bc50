"""docs/reference.md names every field and every error, with its default."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from llm_connect import LedgerEntry, RunConfig, errors
from llm_connect.testing import Behaviour

TEXT = (Path(__file__).parents[1] / "docs" / "reference.md").read_text(encoding="utf-8")
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LLMError)]


def section(name: str) -> str:
    """The text under a heading."""
    return TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def default_of(field: Field[Any]) -> str:
    """A default as the tables write it."""
    if field.default_factory is not MISSING:
        return str(field.default_factory())
    if field.default is MISSING:
        return ""
    if type(field.default) is float:
        return f"{field.default:g}"
    return f'"{field.default}"' if isinstance(field.default, str) else str(field.default)


@pytest.mark.parametrize("kind", [RunConfig, LedgerEntry, Behaviour], ids=lambda kind: kind.__name__)
def test_every_field_stands_there_with_its_default(kind: Any) -> None:
    """A field that is added, renamed or given another default changes the reference, too."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\| \S", section(kind.__name__), re.MULTILINE)
    assert rows == [(field.name, default_of(field)) for field in fields(kind)]


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    """The tree is the one in errors.py, and has every class below the right one."""
    tree = section("Errors").partition("```text\n")[2].partition("```")[0]
    lines = (line.removeprefix("    ") for line in (errors.__doc__ or "").splitlines())
    assert tree.splitlines() == [line for line in lines if re.match("[│├└]|LLMError$|    [├└]", line)]
    above: list[str] = []
    for depth, name in ((len(match[1]) // 4, match[2]) for match in re.finditer(r"^([│├└─ ]*)(LLM\w+)", tree, re.M)):
        above[depth:] = [name]
        kind = getattr(errors, name)
        assert depth == 0 or issubclass(kind, getattr(errors, above[depth - 1]))
    assert set(re.findall(r"LLM\w*Error", tree)) == {kind.__name__ for kind in ERRORS}


def test_the_attributes_of_errors_stand_there() -> None:
    """Each class has a row with the attributes that it adds."""
    rows = re.findall(r"^\| `(LLM\w+)`.*? \| (.*) \|$", section("Errors"), re.MULTILINE)
    said = {name: set(re.findall(r"`(\w+)`", attributes)) for name, attributes in rows}
    for kind in ERRORS:
        named = set().union(*(said.get(each.__name__, set()) for each in kind.__mro__))
        error = kind("text", reason="closed") if issubclass(kind, errors.LLMBudgetExceededError) else kind("text")
        assert named == set(vars(error))
