"""The tasks of this project; `python tasks.py` lists them.

Needs Python 3.11 or later with pip. Everything else that a task needs is installed into the environment in `.venv`
(or in the folder that UV_PROJECT_ENVIRONMENT names) and stays there.
"""

# ruff: noqa: S603, T201 - it starts programs and prints: that is its job

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
OLDEST_PYTHON = (3, 11)
OLDEST_UV = (0, 7)

SYNC = ("sync", "--quiet", "--frozen", "--inexact", "--no-default-groups", "--all-extras")
TESTING = ("test", "schemas", "example")
LINTING = ("lint", *TESTING)
PARTS = ("e2e", "engine", *TESTING)

LINTERS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("pyright", "--pythonpath", str(PYTHON)),
    ("lint-imports", "--no-cache"),
)
#: It leaves the tests compiled. Otherwise all workers compile them at the same time, for a minute.
COLLECTING = ("pytest", "--collect-only", "-qqq")
#: Three workers for each processor, because many tests wait for a deadline. A worker that crashes fails the run:
#: if xdist replaces a worker while tests have groups, the run never ends.
PARALLEL = ("-n", str(min(8, 3 * (os.cpu_count() or 1))), "--dist", "loadgroup", "--max-worker-restart=0")
#: These tests need processes in which no other test has run: whatever it left behind would change their course.
SIMULATION = "tests/simulation"
#: Tests that need no POSIX.
PORTABLE = (
    *("tests/budget", "tests/config", "tests/protocols", "tests/e2e/test_without_posix.py"),
    *(f"tests/stores/test_{name}.py" for name in ("closing", "command", "opening", "outages", "rows", "worker")),
)
VERIFY_TYPES = ("--ignoreexternal", "--verifytypes", "llm_connect")
STARTED = time.monotonic()
#: The commands that this task has run, and their seconds.
TIMES: list[tuple[str, float]] = []
SHORT_SECONDS = 5
FULLY_COVERED = ",".join(
    f"*/llm_connect/{place}" for place in ("_[cfv]*.py", "errors.py", "types/*", "budget/*", "interface/*", "engine/*")
)


def demo(*args: str) -> None:
    """run the delegation chain in examples/, with its arguments"""
    sync("example")
    run(PYTHON, ROOT / "examples" / "delegation_chain.py", *args)


def test(*args: str) -> None:
    """run a sample of the quick tests whose parts are installed; with pytest's arguments, the tests that they choose"""
    sync(*TESTING)
    run(PYTHON, "-m", "pytest", *PARALLEL, *(args or ("-m", "not slow", "--sample")))


def check() -> None:
    """run every check: lint, then public types, tests and their coverage against the built wheel"""
    pass_all(*LINTERS, COLLECTING)
    with installed_wheel():
        run(BIN / "pyright", *VERIFY_TYPES)
        run(PYTHON, "-m", "pytest", *PARALLEL, "-m", "not slow", "--cov", "--cov-report=")
        run(PYTHON, "-m", "coverage", "report", "--include", FULLY_COVERED, "--fail-under=100")
        run(PYTHON, "-m", "pytest", *PARALLEL, "--rest", f"--ignore={SIMULATION}")
        run(PYTHON, "-m", "pytest", *PARALLEL, SIMULATION)


def portable(*args: str) -> None:
    """run the tests of what works on every platform, with pytest's arguments"""
    sync(*TESTING)
    run(PYTHON, "-m", "pytest", *PARALLEL, *PORTABLE, *args)


def nightly(*args: str) -> None:
    """run the tests that scale at full length, for an hour, with pytest's arguments"""
    sync(*PARTS)
    chosen = ("-m", "scales or at_night", "--nightly", "--stores=all", "-o", "timeout=7200", "-s")
    run(PYTHON, "-m", "pytest", *PARALLEL, *chosen, f"--ignore={SIMULATION}", *args)
    if not args:
        run(PYTHON, "-m", "pytest", *PARALLEL, *chosen, SIMULATION)


def e2e(*args: str) -> None:
    """run only the tests on real parts (tests/e2e), with pytest's arguments"""
    test("tests/e2e", *args)


def overshoot(*args: str) -> None:
    """measure overshoot, peers too; with --ours only this project; takes its arguments"""
    sync()
    run(PYTHON, ROOT / "benchmarks" / "overshoot" / "run.py", *args)


def performance(*args: str) -> None:
    """measure the cost of a call, peers too; with --everyday only ours and the raw SDKs; takes its arguments"""
    sync()
    run(PYTHON, ROOT / "benchmarks" / "performance" / "run.py", *args)


def streaming(*args: str) -> None:
    """compare the cost of a stream with the raw SDKs, in five minutes; takes its arguments"""
    sync()
    run(PYTHON, ROOT / "benchmarks" / "streaming" / "run.py", *args)


def stores(*args: str) -> None:
    """compare the cost of a budget in a store with bare steps, in three minutes; takes its arguments"""
    sync()
    run(PYTHON, ROOT / "benchmarks" / "stores" / "run.py", *args)


def ways(*args: str) -> None:
    """count the files of the package that a call passes through; with the beginning of a row, print its whole way"""
    sync()
    run(PYTHON, ROOT / "benchmarks" / "ways.py", *args)


def lint() -> None:
    """run ruff, mypy, pyright and import-linter, and name every one that fails"""
    pass_all(*LINTERS)


def format() -> None:  # noqa: A001 - the name of the task
    """format the code and apply ruff's fixes"""
    sync(*LINTING)
    run(BIN / "ruff", "check", "--fix")
    run(BIN / "ruff", "format")


def parts() -> None:
    """install every optional part, so that tests that need one are not skipped"""
    sync(*PARTS)


WITH_ARGUMENTS = (demo, test, portable, nightly, e2e, overshoot, performance, streaming, stores, ways)
TASKS: dict[str, Callable[..., None]] = {task.__name__: task for task in (*WITH_ARGUMENTS, check, lint, format, parts)}


def sync(*groups: str) -> None:
    """Install the locked versions of all extras and of these groups; other installed packages stay."""
    print(f"Installing into {ENVIRONMENT.name}: all extras, {', '.join(groups)}", flush=True)
    chosen = [option for group in groups for option in ("--group", group)]
    base = () if PYTHON.exists() else ("--python", sys.executable)
    run(uv(), *SYNC, *base, *chosen)


@contextmanager
def installed_wheel() -> Iterator[None]:
    """Install the wheel of this project in place of its sources, and restore them in the end."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(uv(), "build", "--quiet", "--wheel")
    (wheel,) = (ROOT / "dist").glob("*.whl")
    run(uv(), "pip", "install", "--quiet", "--python", PYTHON, "--no-deps", "--reinstall", wheel)
    try:
        yield
    finally:
        sync(*LINTING)


@cache
def uv() -> str:
    """Return uv from PATH, else the one in the environment, which pip installs if it is missing."""
    for found in (shutil.which("uv"), shutil.which("uv", path=BIN)):
        if found and runs(found):
            return found
    make_environment()
    wanted = f"uv>={'.'.join(map(str, OLDEST_UV))}"
    run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted)
    return shutil.which("uv", path=BIN) or sys.exit("pip installed uv, but it cannot be found.")


def runs(uv: str) -> bool:
    """Return whether this uv starts and is new enough; the `uv` of a version manager may be a stub."""
    result = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False)
    words = result.stdout.split()
    if result.returncode != 0 or len(words) < 2:
        return False
    return tuple(int(number) for number in words[1].split(".")[:2]) >= OLDEST_UV


def make_environment() -> None:
    """Make a virtual environment with pip; an existing one is kept."""
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        sys.exit(
            "This Python cannot make a virtual environment: its venv or ensurepip module is missing.\n"
            "Install it (Debian and Ubuntu: the package python3-venv), or put uv on the PATH."
        )
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", "--without-pip", ENVIRONMENT)
    run(PYTHON, "-m", "ensurepip", stdout=subprocess.DEVNULL)


def run(*command: str | Path, stdout: int | None = None) -> None:
    """Run a command in the root of the project; exit with its code if it fails."""
    code = finished(*command, stdout=stdout).returncode
    if code != 0:
        sys.exit(code)


def pass_all(*commands: tuple[str, ...]) -> None:
    """Run these commands of the environment at the same time; name those that fail, and exit."""
    sync(*LINTING)
    with ThreadPoolExecutor() as pool:
        passed = pool.map(lambda command: passes(BIN / command[0], *command[1:]), commands)
        failed = [command for command, good in zip(commands, passed, strict=True) if not good]
    if failed:
        names = (" ".join(takewhile(lambda word: not word.startswith("-"), command)) for command in failed)
        sys.exit(f"\nFailed: {', '.join(names)}")


def passes(*command: str | Path) -> bool:
    """Run a command, and print it with its output once it has ended; return whether it succeeded."""
    done = finished(*command, stdout=subprocess.PIPE)
    print(f"\n$ {Path(command[0]).name} {' '.join(map(str, command[1:]))}\n{done.stdout.rstrip()}", flush=True)
    return done.returncode == 0


def finished(*command: str | Path, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of the project."""
    # Without compiled bytecode every process of a test compiles the SDKs for seconds.
    left_out = ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["UV_PROJECT_ENVIRONMENT"] = str(ENVIRONMENT)
    environment["PATH"] = os.pathsep.join((str(BIN), environment.get("PATH", os.defpath)))
    words = [str(word) for word in command]
    started = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=stdout, text=True, check=False)
    TIMES.append((" ".join([Path(words[0]).name, *words[1:]]), time.monotonic() - started))
    return done


def print_times() -> None:
    """Print the time of each long step of this task, and of all; linters run at the same time."""
    long = [(name, seconds) for name, seconds in TIMES if seconds >= SHORT_SECONDS]
    print("\nMinutes:")
    for name, seconds in [*long, ("in all", time.monotonic() - STARTED)]:
        print(f"{seconds / 60:6.1f}  {name[:100]}")


def main(name: str = "", *args: str) -> None:
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        sys.exit(f"Python {needed} or later is needed; this is {sys.version.split()[0]}.")
    if name not in TASKS or (args and TASKS[name] not in WITH_ARGUMENTS):
        listed = "\n".join(f"  {name:13}{task.__doc__}" for name, task in TASKS.items())
        usage = f"python tasks.py TASK [ARGUMENTS]\n\n{listed}"
        sys.exit(f"No such task: {' '.join((name, *args))}\n\n{usage}") if name else print(usage)
        return
    try:
        TASKS[name](*args)
    finally:
        if name in {"check", "nightly"}:
            print_times()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
