"""An environment for us and the raw SDKs, and one for each peer; all of them outside of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LOCK = ROOT / "uv.lock"
#: What each peer's environment gets. Ours and the raw SDKs share one, with the versions of the lock file; but where
#: aiohttp is installed, google-genai takes it by itself, so as it comes it needs a place of its own.
PEERS = {
    "google-genai-as-it-comes": "google-genai",
    "aisuite": "aisuite[openai]",
    "langchain": "langchain-openai",
    "litellm": "litellm",
    "pydantic-ai": "pydantic-ai-slim[openai]",
}
OURS = "ours"
_SHOWN = (
    "Python",
    "llm-connect",
    "openai",
    "google-genai",
    "httpx2",
    "aiohttp",
    *PEERS,
    "langchain-openai",
    "pydantic-ai-slim",
)
_PRINT_VERSIONS = """
import importlib.metadata, json, platform
found = {found.name: found.version for found in importlib.metadata.distributions()}
print(json.dumps({"Python": platform.python_version(), **found}))
"""


def default_folder() -> Path:
    """Where the environments are kept from one run to the next."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-connect" / "performance"


class Environments:
    """The interpreters of the contenders, made on first use."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, python
        self._ready: set[str] = set()

    def python_of(self, subject: str) -> str:
        """The interpreter of a subject's environment. Raises CalledProcessError when it cannot be made."""
        name = subject if subject in PEERS else OURS
        place = self.folder / name
        if name not in self._ready:
            print(f"Making the environment of {name}", flush=True)
            make_ours(place, self.python) if name == OURS else self._make(place, PEERS[name])
            self._ready.add(name)
        return str(place / "bin" / "python")

    def versions(self) -> dict[str, dict[str, str]]:
        """Return the measured versions, by environment."""
        found = {}
        for name in sorted(self._ready):
            printed = subprocess.run(
                [self.folder / name / "bin" / "python", "-c", _PRINT_VERSIONS],
                check=True,
                capture_output=True,
                text=True,
            )
            all_of_them = json.loads(printed.stdout)
            found[name] = {shown: all_of_them[shown] for shown in _SHOWN if shown in all_of_them}
        return found

    def _make(self, place: Path, package: str) -> None:
        if not (place / "bin" / "python").exists():
            _uv("venv", "--python", self.python, str(place))
        locked = {package["name"]: package["version"] for package in tomllib.loads(_LOCK.read_text())["package"]}
        pinned = f"{package}=={locked[package]}" if package in locked else package
        _uv("pip", "install", "--python", str(place / "bin" / "python"), pinned)


def make_ours(place: Path, python: str, project: Path = ROOT) -> None:
    """An environment at `place` with the tree of `project` and the raw SDKs, by its lock file."""
    variables = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(place)}
    words = ("sync", "--frozen", "--all-extras", "--no-default-groups", "--group", "e2e", "--python", python)
    _uv(*words, "--project", str(project), variables=variables)


def _uv(*words: str, variables: dict[str, str] | None = None) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        sys.exit("The environments are made by uv, which is not on the PATH: run python tasks.py performance.")
    subprocess.run([uv, *words, "--quiet"], check=True, env=variables)
