"""One integer, one schedule: who goes on at each step, what befalls whom, and what must hold in the end."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.actors import Actor
from tests.simulation.cast import Cast
from tests.simulation.jobs import Code
from tests.simulation.world import Fate, fates_of

MAX_STEPS = 160
MAX_ACTORS = 4
MAX_SKEW_S = 300.0
REAL = Code()


@dataclass(frozen=True)
class Passed:
    """A schedule without a violation."""

    operations: int
    faults: int
    trace: tuple[tuple[object, ...], ...]


class ViolatedSchedule(AssertionError):
    """A schedule that broke a promise; its seed repeats it."""

    def __init__(self, seed: int, what: str, trace: Sequence[tuple[object, ...]]) -> None:
        super().__init__(seed, what, trace)
        self.seed, self.what, self.trace = seed, what, trace

    def __str__(self) -> str:
        steps = "\n".join("  " + " ".join(map(str, step)) for step in self.trace)
        return f"seed {self.seed}: {self.what}, after\n{steps}"


def run_schedule(seed: int, code: Code = REAL) -> Passed:
    """Play the schedule of `seed`.

    Raises:
        ViolatedSchedule: with everything that happened until then.
    """
    schedule = _Schedule(random.Random(seed), code)
    world = schedule.cast.world
    try:
        schedule.disturb()
        schedule.cast.finish(schedule.draw.randrange)
    except Exception as error:
        raise ViolatedSchedule(seed, f"{type(error).__name__}: {error}", world.trace) from error
    finally:
        world.kill_all()
    return Passed(world.num_operations, world.num_faults, tuple(world.trace))


class _Schedule:
    def __init__(self, draw: random.Random, code: Code) -> None:
        self.draw, self.cast = draw, Cast(code)
        # Not all faults in every schedule: a rare one shows most where it is not drowned by others.
        self._fates = set(draw.sample(list(Fate), draw.randint(1, len(Fate))))
        self._fault_share = draw.choice([0.02, 0.1, 0.3])
        # Some defects need processes that alternate, others one that stands still while another does much.
        self._persistence = draw.choice([0.0, 0.5, 0.95])
        self._current: Actor | None = None
        self._num_steps = draw.randint(20, MAX_STEPS)

    def disturb(self) -> None:
        """Let processes come and go while everything fails that may."""
        world, draw = self.cast.world, self.draw
        self.cast.start_job()
        for _ in range(self._num_steps):
            world.now_s += draw.expovariate(1 / 10)
            if world.late and draw.random() < 0.1:
                place = draw.randrange(len(world.late))
                draw.choice([world.land, world.land, world.drop])(place)
            elif not world.actors or (len(world.actors) < MAX_ACTORS and draw.random() < 0.08):
                self._start()
            else:
                self._advance(self._next())

    def _next(self) -> Actor:
        if self._current not in self.cast.world.actors or self.draw.random() >= self._persistence:
            self._current = self.draw.choice(self.cast.world.actors)
        return self._current

    def _start(self) -> None:
        match self.draw.randrange(6):
            case 0:
                self.cast.start_reader()
            case 1:
                skew_s, grace_s = self.draw.uniform(-MAX_SKEW_S, MAX_SKEW_S), self.draw.choice([0.0, 100.0])
                self.cast.start_collector(skew_s=skew_s, grace_s=grace_s)
            case _:
                self.cast.start_job()

    def _advance(self, actor: Actor) -> None:
        assert actor.operation is not None
        possible = sorted(self._fates & fates_of(actor.operation), key=lambda fate: fate.value)
        if possible and self.draw.random() < self._fault_share:
            self.cast.world.advance(actor, self.draw.choice(possible), bit=self.draw.getrandbits(20))
        else:
            self.cast.world.advance(actor, Fate.DONE)
