"""Runs one seed: a while of trouble, then calm, and at the end nothing may be held and every call must be booked."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable

from tests.budget.stores import temporary_folder
from tests.simulation.calls import Call
from tests.simulation.file_store import FileStore
from tests.simulation.invariants import Broken, StoredHold
from tests.simulation.machine import simulated
from tests.simulation.world import LEASE_SECONDS, Process, World

STEPS = 60
#: The rounds after which calm processes must have ended all their calls.
ROUNDS = 60


def run(seed: int, store: str = "server", changes: Callable[[str], str] = str) -> World:
    """Run the world of a seed, in which processes share a server or a file. Raises Broken, with its trace."""
    if store == "server":
        return live(World(seed, changes=changes))
    with temporary_folder() as folder:
        return live(World(seed, f"{folder}/budget.db"))


def live(world: World) -> World:
    with simulated(world.clock, world.chance, world.store.patches()):
        try:
            world.open()
            for _ in range(STEPS):
                world.step()
            calm_down(world)
        except Exception as error:
            raise Broken(explained(world, error)) from None
        finally:
            for process in world.processes:
                process.alive = False
            world.store.close()
    return world


def explained(world: World, error: Exception) -> str:
    """The trace of a world, the error, and how to see it again."""
    store = "file" if isinstance(world.store, FileStore) else "server"
    again = f"python tasks.py test tests/simulation -n 0 -k 'no_seed and {store}' --seed {world.seed}"
    where = "" if isinstance(error, Broken) else "".join(traceback.format_exception(error))
    return "\n".join([f"seed {world.seed}", *world.trace, where, f"{type(error).__name__}: {error}", f"Again: {again}"])


def calm_down(world: World) -> None:
    """Let all living processes end their calls, and the leases of the dead expire. Then look at the whole."""
    world.bad = False
    for process in world.processes:
        process.cut_off_until = process.stopped_until = 0.0
    world.say("~ calm")
    keep_leases(world)
    end_calls(world)
    nobody_holds(world)
    for process in world.processes:
        if process.alive:
            world.say(f"{process.name} ends")
            with world.acting(process):
                process.session.shut()
            process.alive = False
    world.clock.now += 2 * LEASE_SECONDS
    auditor = world.start()
    with world.acting(auditor):
        auditor.trackers[0].snapshot()
    at_rest(world)
    for call in world.calls:
        check(world, call)


def keep_leases(world: World) -> None:
    """The workers renew the leases of their processes, so no living one loses a hold."""
    for _ in range(2):
        # A process that was cut off learns now whether its lease has ended meanwhile.
        turn_all(world)
    taken = {str(call.number) for call in world.calls if call.hold is not None}
    kept = {hold.call for process in world.processes for hold in own_holds(world, process)} & taken
    for _ in range(4):
        turn_all(world)
    lost = kept - {hold.call for hold in world.books.holds}
    if lost:
        raise Broken(f"living processes have lost the holds of the calls {sorted(lost)}")


def turn_all(world: World) -> None:
    """Let the workers of all processes do their work, which they do more often than a lease must be renewed."""
    world.clock.now += LEASE_SECONDS / 2.5
    for process in world.processes:
        if process.alive:
            world.actions.turn(process)


def own_holds(world: World, process: Process) -> list[StoredHold]:
    """The holds that a living process has in the store."""
    own = process.session.leases.own if process.alive else None
    return [hold for hold in world.books.holds if own is not None and hold.lease == own.number]


def end_calls(world: World) -> None:
    for _ in range(ROUNDS):
        left = [call for process in world.processes if process.alive for call in process.calls if not call.over]
        if not left:
            return
        for process in world.processes:
            if process.alive:
                tend(world, process)
        world.clock.now += 0.5
    raise Broken(f"these calls wait for ever: {[call.number for call in left]}")


def tend(world: World, process: Process) -> None:
    """Let a process do what it can do by now."""
    world.actions.turn(process)
    for share in process.shares:
        with world.acting(process):
            world.actions.leave_share(process, share)
    process.shares.clear()
    for call in process.calls:
        while not call.over and (call.hold is not None or call.may_go_on):
            world.actions.go_on(call)


def nobody_holds(world: World) -> None:
    """The processes that are left have no calls any more, so they have no holds."""
    for call in world.calls:
        call.forget_frames()
    gc.collect()
    for _ in range(3):
        # A worker looks at the store at the latest when it has to renew the lease.
        turn_all(world)
    for process in world.processes:
        if held := own_holds(world, process):
            raise Broken(f"{process.name} holds what no caller has: {held}")


def at_rest(world: World) -> None:
    """Nothing is held or set aside, and nobody waits or has a lease."""
    books = world.books
    for part in world.store.parts:
        if world.store.part(part):
            raise Broken(f"at rest there are {part}: {world.store.part(part)}")
    for tracker in books.trackers.values():
        for unit, figures in tracker.units.items():
            if figures.held or figures.allotted:
                raise Broken(f"at rest {tracker.name} has {unit}: {figures}")


def check(world: World, call: Call) -> None:
    """The entries of a call add up to what is known of it."""
    booked = world.books.booked(call.number)
    if call.written and call.told is not None and not call.doubtful:
        right = booked == call.told
    elif call.sent:
        right = booked >= min(call.cost, call.tokens)
    else:
        right = booked == 0 or call.tried or call.doubtful
    if not right:
        raise Broken(
            f"call {call.number} has {booked} booked: sent {call.sent}, cost {call.cost}, told {call.told}, "
            f"written {call.written}, doubtful {call.doubtful}"
        )
