"""Core <- Functional <- Configuration: nothing imports upwards."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import llm_connect

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(llm_connect.__file__).parent
CORE = {"_closing", "_flows", "_forks", "_validation", "budget", "errors", "interface", "types"}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(layer: str) -> list[tuple[str, str]]:
    """Every absolute import of a layer, those for type checkers included: (file, imported name)."""
    module = PACKAGE / f"{layer}.py"
    files = [module] if module.exists() else sorted((PACKAGE / layer).rglob("*.py"))
    assert files, f"the layer {layer} has no files"
    return [(str(file.relative_to(PACKAGE)), name) for file in files for name in imports(ast.parse(file.read_text()))]


def import_contracts() -> list[dict[str, Any]]:
    """The contracts that import-linter is told of."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return contracts


def layers() -> list[set[str]]:
    """The layers that import-linter is told of, lowest first; rooms of one layer do not know each other."""
    named = next(contract["layers"] for contract in import_contracts() if contract["type"] == "layers")
    return [set(re.split(r" [|:] ", layer.replace("llm_connect.", ""))) for layer in reversed(named)]


def test_core_is_standard_library_only() -> None:
    """Core and the protocols import nothing but the standard library and this package (LAYER-2, WIRE-1)"""
    foreign = [
        (file, name)
        for layer in CORE | {"protocols"}
        for file, name in imports_of(layer)
        if name.partition(".")[0] not in sys.stdlib_module_names | {"llm_connect"}
    ]
    assert foreign == []


def test_nothing_imports_upwards() -> None:
    """A layer imports itself and the layers below it (LAYER-1)"""
    order = layers()
    upwards = [
        (file, name)
        for position, layer in enumerate(order)
        for folder in layer
        for file, name in imports_of(folder)
        if name.startswith("llm_connect.") and name.split(".")[1] in set().union(*order[position:]) - {folder}
    ]
    assert upwards == []


def test_every_folder_is_a_layer() -> None:
    """A new folder of the package needs a place among the layers."""
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    rooms |= {path.stem for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "__main__")}
    assert rooms == set().union(*layers())


def test_every_file_is_on_the_map() -> None:
    """ARCHITECTURE-LAYERS.md names each file of the package, or the folder that it is in."""
    sources = ROOT / "src" / "llm_connect"
    text = (ROOT / "ARCHITECTURE-LAYERS.md").read_text(encoding="utf-8")
    shown = {(ROOT / link).resolve() for link in re.findall(r"\]\((src/[^)]+)\)", text)}
    files = [path for path in sorted(sources.rglob("*.py")) if not path.name.startswith("__")]
    assert [str(path) for path in files if not shown & {path, *path.parents}] == []


def test_no_file_name_has_two_meanings() -> None:
    """A name stands twice only for a part of the budget that stores keep in their own ways (LAYER-8)"""
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    by_name = {path.name: {each for each in files if each.name == path.name} for path in files}
    twice = {name: paths for name, paths in by_name.items() if len(paths) > 1}
    for name, paths in twice.items():
        apart = [path for path in paths if path.parts[0] != "stores"]
        assert all(path.parts[0] == "budget" for path in apart), (name, paths)
        assert len(apart) < 2, (name, paths)


def test_no_import_is_excepted() -> None:
    """Every package is searched for circles, and no contract lists an exception (LAYER-5)"""
    contracts = import_contracts()
    assert [contract["ancestors"] for contract in contracts if contract["type"] == "acyclic_siblings"] == [
        ["llm_connect"]
    ]
    assert [option for contract in contracts for option in contract if option.startswith(("ignore", "skip"))] == []


@pytest.mark.skipif(find_spec("importlinter") is None, reason="import-linter comes with `python tasks.py lint`")
def test_import_linter_agrees() -> None:
    """The contracts in pyproject.toml hold for all imports (LAYER-1, LAYER-2, LAYER-5, LAYER-6, LAYER-7, WIRE-1)"""
    command = "from importlinter.cli import lint_imports_command as lint; lint()"
    result = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stdout + result.stderr
