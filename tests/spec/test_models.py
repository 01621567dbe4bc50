"""The models in spec/ keep the claims of the contracts, and a broken rule of each claim is found.

Spin explores every interleaving of a model. A claim that spin cannot break proves little until it is seen to break:
each has a mutation, which removes the rule that the claim depends on.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SPEC = Path(__file__).parents[2] / "spec"
ADMISSION = ("admission.pml", "BUDGET", (1, 2, 3, 4, 5, 6, 10))
LEASES = ("leases.pml", "STORE", (2, 3, 4, 8, 10))
MUTATIONS = [
    pytest.param(model, claim, id=f"{contract}-{claim}")
    for model, contract, claims in (ADMISSION, LEASES)
    for claim in claims
]
#: Patience for a busy machine; a quiet one needs 20 seconds for the largest search.
SECONDS = 600

pytestmark = [
    pytest.mark.skipif(
        shutil.which("spin") is None or shutil.which("cc") is None,
        reason="needs spin (Debian: spin) and a C compiler",
    ),
    pytest.mark.timeout(2 * SECONDS),
]


def violated(model: str, folder: Path, *, claim: int = 0, mutation: int = 0) -> str:
    """What spin finds wrong with a model: its own words, or nothing."""
    definitions = (f"-DCLAIM={claim}", f"-DMUTATION={mutation}")
    run("spin", "-a", *definitions, str(SPEC / model), folder=folder)
    # A mutation is found soon, so compiling it well would take longer than the search.
    run("cc", "-O0" if mutation else "-O2", "-DSAFETY", "-w", "-o", "search", "pan.c", folder=folder)
    printed = run("./search", "-m100000", folder=folder)
    assert "errors: " in printed, printed
    assert "max search depth too small" not in printed
    return "" if "errors: 0\n" in printed else printed


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("model", ["admission.pml", "leases.pml"])
def test_no_interleaving_breaks_a_claim(model: str, tmp_path: Path) -> None:
    """All claims of a model hold in every state that it can reach, and no caller waits for ever."""
    assert violated(model, tmp_path) == ""


@pytest.mark.parametrize(("model", "claim"), MUTATIONS)
def test_a_broken_rule_is_found_by_its_claim(model: str, claim: int, tmp_path: Path) -> None:
    """Without the rule that a claim depends on, the check of that claim alone fails."""
    assert "assertion violated" in violated(model, tmp_path, claim=claim, mutation=claim)
