"""What the documents say is so: their code runs, their commands and links exist.

The Python blocks of one document run in one fresh process, from top to bottom, with `await` allowed outside
of functions as in a notebook. The adapters' environment variables name the embedded provider, so the real
adapters are used and nothing leaves this machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_connect.testing import EmbeddedProvider
from tests.providers.claude_binary import find_claude

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FOLDERS = (".claude", ".github", "benchmarks", "contracts", "docs", "examples", "workplans")
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| (T\d\d) \| .+? \| (open|in progress|done) \|(.*?)\|$", re.MULTILINE)
FROM_INDEX = re.compile(
    r"(?:pip install|uv add|uv pip install|uv tool install|pipx install)\b[^\n]*"
    r"(?<![\w/.-])llm[-_]connect(?![\w/.-])"
)
COMMANDS = (
    "cd ",
    "export ",
    "git clone ",
    "python tasks.py",
    "python3 tasks.py",
    "UPDATE_PUBLIC_API=1 python tasks.py",
    ".ci/run",
)

RUNNER = """
import ast, asyncio, inspect, json, sys
from llm_connect.providers import openrouter
blocks, openrouter.BASE_URL = json.load(sys.stdin)
namespace = {"__name__": "__main__"}
with asyncio.Runner() as runner:
    for code, name in blocks:
        result = eval(compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
        if inspect.iscoroutine(result):
            runner.run(result)
"""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> list[tuple[int, str]]:
    """The code blocks of these languages: number of their first line, text."""
    text = path.read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if match[1] in languages]
    return [(text.count("\n", 0, match.start(2)) + 1, match[2]) for match in found]


def slugs(path: Path) -> set[str]:
    """The anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def provider_environment() -> Iterator[tuple[dict[str, str], EmbeddedProvider]]:
    claude = find_claude()
    folders = [str(Path(claude).parent)] if claude else []
    folders.append(os.environ.get("PATH", os.defpath))
    with EmbeddedProvider() as provider:
        variables = {
            "OPENAI_API_KEY": "key-of-the-documents",
            "OPENAI_BASE_URL": provider.openai_url,
            "GEMINI_API_KEY": "key-of-the-documents",
            "GOOGLE_GEMINI_BASE_URL": provider.gemini_url,
            "OPENROUTER_API_KEY": "key-of-the-documents",
            "ANTHROPIC_API_KEY": "key-of-the-documents",
            "ANTHROPIC_BASE_URL": provider.anthropic_url,
            "PATH": os.pathsep.join(folders),
        }
        yield {**os.environ, **variables}, provider


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")], ids=name_of)
def test_the_python_of_a_document_runs(
    path: Path, provider_environment: tuple[dict[str, str], EmbeddedProvider], tmp_path: Path
) -> None:
    """Every Python block runs, without a warning."""
    numbered = blocks(path, "python")
    environment, provider = provider_environment
    left_out = [] if find_claude() else [block for block in numbered if "ClaudeCodeAdapter(" in block[1]]
    # Blank lines in front, so that a traceback shows the lines of the document.
    code = [("\n" * (line - 1) + text, name_of(path)) for line, text in numbered if (line, text) not in left_out]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        input=json.dumps([code, provider.openrouter_url]),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    if left_out:
        pytest.skip(f"ran, but for {len(left_out)} blocks that need the claude command, which is not installed")


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "bash", "sh")], ids=name_of)
def test_the_commands_of_a_document_exist(path: Path) -> None:
    """Every shell command is one of a known few, and every task that is named exists."""
    lines = [line for _, text in blocks(path, "bash", "sh") for line in text.splitlines()]
    commands = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in commands if not line.startswith(COMMANDS)] == []
    tasks = {match[1] for line in commands if (match := re.search(r"python tasks\.py (\w+)", line))}
    assert tasks <= known_tasks()


def known_tasks() -> set[str]:
    module: dict[str, Any] = {"__name__": "tasks", "__file__": str(ROOT / "tasks.py")}
    exec(compile((ROOT / "tasks.py").read_text(encoding="utf-8"), "tasks.py", "exec"), module)
    return set(module["TASKS"])


def test_the_readme_begins_with_the_two_commands() -> None:
    """The first shell block of the README runs the main job, then the tests, from a fresh clone."""
    _, first = blocks(ROOT / "README.md", "bash", "sh")[0]
    assert [line.partition("#")[0].strip() for line in first.splitlines()[:2]] == [
        "python3 tasks.py demo",
        "python3 tasks.py test",
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_links_of_a_document_resolve(path: Path) -> None:
    """A link to a file of this project leads to a file, and to a heading when it names one."""
    local = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    broken = []
    for link in local:
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in slugs(file)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", sorted((ROOT / "workplans").glob("*.md")), ids=lambda path: path.stem)
def test_a_task_that_is_done_links_to_its_proof(path: Path) -> None:
    """A workplan has the tasks T01 to T11, each with its state; one that is done links to its proof."""
    rows = ROW.findall(path.read_text(encoding="utf-8"))
    assert [task for task, _, _ in rows] == [f"T{number:02}" for number in range(1, 12)]
    unproven = [task for task, state, proof in rows if state == "done" and not LINK.search(proof)]
    assert unproven == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_document_installs_from_the_index(path: Path) -> None:
    """The name on the public index belongs to another project: no text tells anyone to install it."""
    assert FROM_INDEX.findall(path.read_text(encoding="utf-8")) == []
