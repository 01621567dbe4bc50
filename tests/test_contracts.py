"""A contract that no test quotes is not a contract.

A contract declares an invariant by its id in bold, `**MODEL-3**`. A test names it at the end of its
docstring, `(MODEL-3)` or `(MODEL-3, CALL-1)`.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CONTRACTS = sorted((ROOT / "contracts").glob("*/*.md"))
FIELDS = ("Name", "Version", "Date", "Status", "Layer", "Maturity")
SECTIONS = ("Interface", "Invariants", "Failure modes", "Compatibility", "Validation")
LAYERS = {"core": "Core", "functional": "Functional", "config": "Configuration"}
MATURITIES = {"Experimental", "Beta", "Stable", "Deprecated"}

DECLARED = re.compile(r"\*\*([A-Z]+-\d+)\*\*")
NAMED = re.compile(r"\(([A-Z]+-\d+(?:, [A-Z]+-\d+)*)\)\.?$", re.MULTILINE)


def declared() -> list[str]:
    files = [ROOT / "contracts" / "README.md", *CONTRACTS]
    return [name for path in files for name in DECLARED.findall(path.read_text(encoding="utf-8"))]


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of tests: functions `test_...`, and classes, which may be state machines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if function or isinstance(node, ast.ClassDef):
            yield ast.get_docstring(node) or ""  # type: ignore[arg-type]


def named() -> set[str]:
    texts = (text for path in TESTS.rglob("test_*.py") for text in docstrings(path))
    return {name for text in texts for names in NAMED.findall(text) for name in names.split(", ")}


def in_order(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (name.partition("-")[0], int(name.partition("-")[2])))


def test_every_invariant_has_a_test() -> None:
    """No id of a contract is without a test that names it."""
    assert in_order(set(declared()) - named()) == []


def test_every_named_invariant_exists() -> None:
    """No test names an id that no contract declares."""
    assert in_order(named() - set(declared())) == []


def test_every_invariant_is_declared_once() -> None:
    """An id belongs to one sentence of one contract."""
    assert [name for name, times in Counter(declared()).items() if times > 1] == []


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: path.stem)
def test_a_contract_is_complete(path: Path) -> None:
    """A contract has its header fields, its sections, and at least one invariant."""
    text = path.read_text(encoding="utf-8")
    header = text.partition("\n## ")[0]
    fields = dict(re.findall(r"^\| (\w+) \| (.+?) \|$", header, re.MULTILINE))
    assert [name for name in FIELDS if name not in fields] == []
    assert fields["Layer"] == LAYERS[path.parent.name]
    assert fields["Maturity"] in MATURITIES
    assert [name for name in SECTIONS if f"\n## {name}\n" not in text] == []
    assert DECLARED.search(text)
