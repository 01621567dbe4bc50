"""An exception at every point of every operation of a budget in memory."""

from __future__ import annotations

import pytest

from llm_connect import BudgetTracker
from tests.faults import scenes
from tests.faults.injection import Fault, Injector


@pytest.mark.parametrize("name", scenes.ALL)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_books_are_exact_wherever_python_raises(name: str, record_property: object) -> None:
    """The next operation completes or undoes what was interrupted: nothing held or locked, sums equal. (BUDGET-65)"""
    at = 0
    wrong: list[str] = []
    while True:
        at += 1
        injector = Injector(at)
        scene = scenes.interrupt(BudgetTracker, scenes.ALL[name], injector.run)
        try:
            scene.look()
        except Exception as error:
            wrong.append(f"{at} {injector.raised}: {error!r}"[:600])
        if not injector.raised:
            break
    print(f"{name}: {at - 1} points, {len(wrong)} wrong")
    assert not wrong, f"{len(wrong)} of {at}: " + "\n".join(wrong[:8])
    assert at > 10
    assert Fault
