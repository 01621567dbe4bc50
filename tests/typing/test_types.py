"""Type checkers find the wrong uses of the public interface, and nothing in the right ones."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from textwrap import indent
from typing import Any, get_overloads

import pytest

from llm_connect import (
    ClaudeCodeAdapter,
    GeminiAdapter,
    MockLLMAdapter,
    OpenAIAdapter,
    OpenRouterAdapter,
    RunConfig,
    create_adapter,
    open_budget,
)
from llm_connect.config import options
from llm_connect.config.factory import PROVIDERS
from llm_connect.interface.config import RunConfigFields
from llm_connect.stores.opening import BudgetOptions

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WRONG, RIGHT = HERE / "wrong_uses.py", HERE / "right_uses.py"
MARKED = {n for n, line in enumerate(WRONG.read_text().splitlines(), 1) if line.endswith("# wrong")}

#: The checkers need a minute each on a busy machine, and look at all of openai's types.
slow = [pytest.mark.timeout(900), pytest.mark.xdist_group("types")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where mypy keeps what it has learned of the SDKs, which takes it half a minute."""
    return tmp_path_factory.mktemp("mypy")


def mypy(cache: Path, *files: Path) -> dict[str, set[int]]:
    """The lines in which `mypy --strict` finds an error, by file."""
    command = ["mypy", "--strict", "--config-file=", "--no-error-summary", "--follow-imports=silent"]
    command += ["--cache-dir", str(cache), "--python-executable", sys.executable, "--output=json"]
    lines = run(command, *files).splitlines()
    assert all(line.startswith("{") for line in lines), lines
    found = [said for said in map(json.loads, lines) if said["severity"] == "error"]
    return by_file((said["file"], said["line"]) for said in found)


def pyright(_cache: Path) -> dict[str, set[int]]:
    """The lines in which pyright finds an error, by file."""
    said = json.loads(run(["pyright", "--outputjson", "--pythonpath", sys.executable]))
    found = [each for each in said["generalDiagnostics"] if each["severity"] == "error"]
    return by_file((each["file"], each["range"]["start"]["line"] + 1) for each in found)


def run(command: list[str], *files: Path) -> str:
    files = files or (WRONG, RIGHT)
    done = subprocess.run([sys.executable, "-m", *command, *files], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def by_file(found: Any) -> dict[str, set[int]]:
    lines: dict[str, set[int]] = {}
    for file, line in found:
        lines.setdefault(Path(file).name, set()).add(line)
    return lines


@pytest.mark.parametrize("checker", [pytest.param(mypy, marks=slow), pytest.param(pyright, marks=slow)])
def test_each_wrong_use_is_an_error_and_no_right_one(checker: Any, cache: Path) -> None:
    """Whoever misspells a name, a text or a type is told before the program runs. (MODEL-11)"""
    if find_spec(checker.__name__) is None:
        pytest.skip(f"{checker.__name__} is not installed: `python tasks.py check` has it")
    found = checker(cache)
    assert found.get(RIGHT.name, set()) == set()
    assert found.get(WRONG.name, set()) == MARKED


@pytest.mark.timeout(900)
@pytest.mark.xdist_group("types")
def test_the_documents_pass_mypy(tmp_path: Path, cache: Path) -> None:
    """The code of README and docs is strictly typed, except in the two pages about adapters. (MODEL-11)"""
    if find_spec("mypy") is None or find_spec("openai") is None:
        pytest.skip("mypy or openai is not installed: `python tasks.py check` has them")
    files = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S))
        if code and path.stem not in ("adapters", "writing-an-adapter"):
            files.append(tmp_path / f"{path.stem.replace('-', '_')}_doc.py")
            # A document may await as a notebook does.
            files[-1].write_text(f"async def document() -> None:\n{indent(code, '    ')}", encoding="utf-8")
    assert len(files) >= 6
    assert mypy(cache, *files) == {}


def test_the_tables_are_long() -> None:
    """There are at least 25 wrong uses and 25 right ones."""
    statements = [node for node in ast.walk(ast.parse(RIGHT.read_text())) if isinstance(node, ast.Expr)]
    assert len(MARKED) >= 25
    assert len(statements) >= 25 + 1


def annotations(function: Any, leave_out: set[str]) -> dict[str, str]:
    """The keyword parameters of a function, and their types as written."""
    kinds = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    found = signature(function).parameters.items()
    return {name: str(said.annotation) for name, said in found if said.kind in kinds and name not in leave_out}


def written(options: type) -> dict[str, str]:
    """The types of a TypedDict, as written."""
    return {name: getattr(said, "__forward_arg__", str(said)) for name, said in options.__annotations__.items()}


def test_what_delegate_takes_are_the_fields_of_a_config() -> None:
    """`delegate` is typed with each field of `RunConfig`, no more and no less. (MODEL-11)"""
    assert written(RunConfigFields) == {field.name: field.type for field in fields(RunConfig)}


def test_what_aopen_budget_takes_is_what_open_budget_takes() -> None:
    """The async form is typed with each parameter of the other. (MODEL-11)"""
    assert written(BudgetOptions) == annotations(open_budget, {"url"})


@pytest.mark.parametrize(
    ("adapter", "table"),
    [
        (ClaudeCodeAdapter, options.ClaudeCodeOptions),
        (GeminiAdapter, options.GeminiOptions),
        (MockLLMAdapter, options.MockOptions),
        (OpenAIAdapter, options.OpenAIOptions),
        (OpenRouterAdapter, options.OpenRouterOptions),
    ],
)
def test_what_create_adapter_takes_is_what_the_adapters_take(adapter: Any, table: type) -> None:
    """`create_adapter` is typed with each parameter of each constructor. (MODEL-11)"""
    assert written(table) == annotations(adapter, set())


def test_create_adapter_has_a_type_for_each_provider() -> None:
    """Each provider has its own form of `create_adapter`, and there is one for all. (MODEL-11)"""
    providers = [form.__annotations__["provider"] for form in get_overloads(create_adapter)]
    assert providers == [*(f"Literal[{name!r}]" for name in PROVIDERS), "Provider"]
