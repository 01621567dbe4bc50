"""The public names and their signatures, as `tests/public_api.txt` keeps them.

A change there is a change for users. To write the file anew:

    UPDATE_PUBLIC_API=1 python tasks.py test tests/test_public_api.py
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llm_connect
from llm_connect import LLMAdapter

SNAPSHOT = Path(__file__).parent / "public_api.txt"
STUB = Path(llm_connect.__file__).with_suffix(".pyi")


def signature(value: object) -> str:
    """A signature without the quotes around its annotations."""
    text = str(inspect.signature(value))  # type: ignore[arg-type]
    return re.sub(r"(: |-> )'((?:[^'\\]|\\.)*)'(?=[,)]| =|$)", r"\1\2", text)


def member(name: str, value: object) -> str | None:
    if isinstance(value, property):
        return f"    {name}: property"
    if isinstance(value, classmethod | staticmethod):
        return f"    {type(value).__name__} {name}{signature(value.__func__)}"
    if inspect.isfunction(value):
        return f"    {'async ' * inspect.iscoroutinefunction(value)}{name}{signature(value)}"
    return None


def members(cls: type) -> Iterator[str]:
    """The public methods and properties of a class, inherited ones too, as far as they are this library's.

    Not what the call path asks of its adapters, which is no public interface.
    """
    owners = [owner for owner in reversed(cls.__mro__) if owner.__module__.startswith("llm_connect")]
    path = [owner for owner in owners if owner.__module__.startswith("llm_connect.engine")]
    abstract = {name for owner in path for name in owner.__abstractmethods__}  # type: ignore[attr-defined]
    asked = {name for name in abstract if not hasattr(LLMAdapter, name)}
    attributes = {name: value for owner in owners for name, value in vars(owner).items()}
    for name in sorted(name for name in attributes if not name.startswith("_") and name not in asked):
        if line := member(name, attributes[name]):
            yield line


def describe(name: str) -> Iterator[str]:
    value = getattr(llm_connect, name)
    if inspect.isclass(value) and value.__module__.startswith("llm_connect"):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        yield f"class {name}({bases})"
        yield f"    __init__{signature(value)}"
        yield from members(value)
    elif inspect.isfunction(value):
        yield f"{name}{signature(value)}"
    else:
        yield name if name == "__version__" else f"{name} = {value}"


def stub() -> str:
    """The public names for type checkers, which do not know how `__getattr__` imports them."""
    # The class that users get has the same type as the one that it extends by list prices.
    modules = llm_connect._MODULES | {"BudgetTracker": "llm_connect.budget.tracker"}
    imports = sorted((module, name) for name, module in modules.items())
    lines = [f"from {module} import {name} as {name}" for module, name in imports]
    return "\n".join([*lines, "", "__version__: str", ""])


def test_type_checkers_read_the_same_names() -> None:
    """The stub beside the package imports each public name from its module."""
    if os.environ.get("UPDATE_PUBLIC_API"):
        STUB.write_text(stub(), encoding="utf-8")
    assert stub() == STUB.read_text(encoding="utf-8")


def test_the_names_are_sorted() -> None:
    """`__all__` is in order and holds each name once."""
    assert llm_connect.__all__ == sorted(set(llm_connect.__all__))
    assert set(llm_connect.__all__) <= set(dir(llm_connect))


def test_the_public_api_is_the_recorded_one() -> None:
    """Names and signatures change only together with tests/public_api.txt (LAYER-4)"""
    found = "\n".join(line for name in llm_connect.__all__ for line in describe(name)) + "\n"
    if os.environ.get("UPDATE_PUBLIC_API"):
        SNAPSHOT.write_text(found, encoding="utf-8")
    assert found == SNAPSHOT.read_text(encoding="utf-8")


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that is not public is refused as any module does it."""
    assert not hasattr(llm_connect, "NoSuchAdapter")


@pytest.mark.parametrize("statement", ["import llm_connect", "from llm_connect import *"])
def test_importing_the_package_imports_no_sdk(statement: str) -> None:
    """Importing it, and all its names, brings the standard library and this package, nothing else (LAYER-3)"""
    brought = brought_by(statement)
    assert {name.partition(".")[0] for name in brought} - sys.stdlib_module_names == {"llm_connect"}


def test_a_name_is_imported_on_its_first_use() -> None:
    """Who only imports the package pays for nothing in it."""
    assert [name for name in brought_by("import llm_connect") if name.startswith("llm_connect")] == ["llm_connect"]
    assert "llm_connect.budget.tracker" in brought_by("from llm_connect import BudgetTracker")


def brought_by(statement: str) -> list[str]:
    script = f"import sys; old = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - old)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()
