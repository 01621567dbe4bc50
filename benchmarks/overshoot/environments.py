"""A virtual environment for each peer, outside the project, and the part of this machine that its processes may see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.overshoot.roster import Entry

#: Nobody listens at the discard port of loopback: what a peer would fetch from outside fails at once.
_NOWHERE = "http://127.0.0.1:9"
_KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")
_SECONDS_TO_INSTALL = 300
_PRINT_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def default_folder() -> Path:
    """Where the environments are kept from one run to the next."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "llm-connect" / "overshoot"


def python_for(entry: Entry, folder: Path, *, upgrade: bool) -> str:
    """The interpreter of the entry's environment, which is made when it is not there; ours is this one.

    Raises subprocess.CalledProcessError when the packages cannot be installed.
    """
    if entry.ours:
        return sys.executable
    environment = folder / entry.packages[0].partition("[")[0]
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and not upgrade:
        return str(python)
    if not python.exists():
        _uv("venv", "--python", sys.executable, str(environment))
    _uv("pip", "install", "--upgrade", "--python", str(python), *entry.packages)
    return str(python)


def versions(python: str, entry: Entry) -> dict[str, str]:
    """The versions of the entry's packages, and of the openai SDK, which all of them call."""
    names = sorted({package.partition("[")[0] for package in entry.packages} | {"openai"})
    if entry.ours:
        names.insert(0, "llm-connect")
    printed = subprocess.run(
        [python, "-c", _PRINT_VERSIONS, *names], capture_output=True, text=True, check=True, timeout=60
    )
    found: dict[str, str] = json.loads(printed.stdout)
    return found


def variables(root: Path, home: Path) -> dict[str, str]:
    """The environment variables of a contender: no keys of this machine, and no way out of it."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _NOWHERE)
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "OTEL_SDK_DISABLED": "true"}
    return {**kept, **proxies, **direct, **quiet, "HOME": str(home), "PYTHONPATH": str(root)}


def _uv(*words: str) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        sys.exit("The peers' environments are made by uv, which is not on the PATH: run python tasks.py overshoot.")
    subprocess.run([uv, *words, "--quiet"], check=True, timeout=_SECONDS_TO_INSTALL)
