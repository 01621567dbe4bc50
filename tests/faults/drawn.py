"""Interrupts a scene at all of its points, or at some that a seed draws."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable

from llm_connect import BudgetTracker
from tests.faults import scenes
from tests.faults.injection import Fault, Injector, Point
from tests.faults.scenes import Make, Scene


def _points(make: Make, name: str, *, everywhere: bool) -> list[Point]:
    noting = Injector(everywhere=everywhere)
    scenes.interrupt(make, scenes.ALL[name], noting.run).look()
    return noting.met


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
    # Each scene collects its garbage: what was there before need not be looked at a thousand times.
    gc.collect()
    gc.freeze()
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
