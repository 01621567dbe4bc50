"""Interrupts a scene at all of its points, or at some that a seed draws."""

from __future__ import annotations

import random
from collections.abc import Callable

from llm_connect import BudgetTracker
from tests.faults import scenes
from tests.faults.injection import Fault, Injector
from tests.faults.scenes import Make, Scene

#: No scene has this many points, so nothing is raised.
_NEVER = 10**9


def _points(make: Make, name: str, *, everywhere: bool) -> list[int]:
    counter = Injector(_NEVER, everywhere=everywhere)
    scenes.interrupt(make, scenes.ALL[name], counter.run).look()
    return list(range(1, counter.met + 1))


def wrong_of(
    name: str,
    *,
    make: Make = BudgetTracker,
    most: int | None = None,
    error: type[BaseException] = Fault,
    everywhere: bool = False,
    look: Callable[[Scene], None] = Scene.look,
) -> list[str]:
    """The failures after an `error` at each point of the scene, or at `most` of them; prints the number of points.

    A scene that waits has fewer points on some runs, so another point is drawn for one that was not met.
    """
    points = _points(make, name, everywhere=everywhere)
    if most is not None:
        random.Random(name).shuffle(points)
    wrong: list[str] = []
    raised = 0
    for at in points:
        injector = Injector(at, error, everywhere=everywhere)
        scene = scenes.interrupt(make, scenes.ALL[name], injector.run)
        raised += bool(injector.raised)
        try:
            look(scene)
        except Exception as failed:
            wrong.append(f"{at} {injector.raised}: {failed!r}"[:600])
            if len(wrong) > 8:
                break
        if raised == most:
            break
    print(f"{name}: {raised} points, {len(wrong)} wrong")
    assert wrong or raised == most or raised > 10
    return wrong
