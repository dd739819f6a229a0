"""The commit protocol under simulated crashes, zombies, lost answers and rivals: every schedule ends well."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.simulation.cast import Cast
from tests.simulation.jobs import Code
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedules import REAL, ViolatedSchedule, run_schedule
from tests.simulation.world import Fate, fates_of

NUM_SCHEDULES = 250
MAX_SEEDS_TO_FIND_A_MUTANT = 1000
MAX_ACTORS = 5

pick = st.integers(0, 99)


def test_no_schedule_loses_changes_or_doubles_a_row() -> None:
    passed = [run_schedule(seed) for seed in range(NUM_SCHEDULES)]

    met = {step[-1] for schedule in passed for step in schedule.trace}
    assert {fate.name for fate in Fate} <= met
    assert sum(schedule.faults for schedule in passed) > NUM_SCHEDULES


def test_a_seed_repeats_its_schedule_step_by_step() -> None:
    first, second, other = run_schedule(7), run_schedule(7), run_schedule(8)

    assert first == second
    assert first.trace != other.trace


@pytest.mark.parametrize("name", MUTANTS)
def test_a_protocol_with_one_line_wrong_is_found_out_and_its_seed_repeats_it(name: str) -> None:
    seed, what = first_violation(MUTANTS[name])

    with pytest.raises(ViolatedSchedule) as again:
        run_schedule(seed, MUTANTS[name])
    assert (again.value.seed, again.value.what) == (seed, what)
    run_schedule(seed, REAL)


def first_violation(code: Code) -> tuple[int, str]:
    for seed in range(MAX_SEEDS_TO_FIND_A_MUTANT):
        try:
            run_schedule(seed, code)
        except ViolatedSchedule as violated:
            return seed, violated.what
    pytest.fail(f"{MAX_SEEDS_TO_FIND_A_MUTANT} schedules see nothing wrong with it")


class LabelStore(RuleBasedStateMachine):
    """The same world with hypothesis at the helm, which shortens what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.cast = Cast(REAL)
        self.world = self.cast.world

    @precondition(lambda self: len(self.world.actors) < MAX_ACTORS)
    @rule()
    def start_job(self) -> None:
        self.cast.start_job()

    @precondition(lambda self: len(self.world.actors) < MAX_ACTORS)
    @rule()
    def start_reader(self) -> None:
        self.cast.start_reader()

    @precondition(lambda self: len(self.world.actors) < MAX_ACTORS)
    @rule(skew_s=st.integers(-300, 300))
    def start_collector(self, skew_s: int) -> None:
        self.cast.start_collector(skew_s=skew_s, grace_s=0.0)

    @precondition(lambda self: self.world.actors)
    @rule(who=pick, operations=st.integers(1, 12))
    def advance(self, who: int, operations: int) -> None:
        actor = self.world.actors[who % len(self.world.actors)]
        for _ in range(operations):
            if actor.operation is not None:
                self.world.advance(actor, Fate.DONE)

    @precondition(lambda self: self.world.actors)
    @rule(who=pick, which=pick, bit=st.integers(0, 1 << 20))
    def fail(self, who: int, which: int, bit: int) -> None:
        actor = self.world.actors[who % len(self.world.actors)]
        possible = sorted(fates_of(actor.operation), key=lambda fate: fate.value)
        self.world.advance(actor, possible[which % len(possible)], bit=bit)

    @precondition(lambda self: self.world.late)
    @rule(place=pick, arrives=st.booleans())
    def settle(self, place: int, arrives: bool) -> None:
        (self.world.land if arrives else self.world.drop)(place % len(self.world.late))

    @rule(seconds=st.integers(1, 10_000))
    def wait(self, seconds: int) -> None:
        self.world.now_s += seconds

    @invariant()
    def everyone_who_ended_was_excused(self) -> None:
        assert all(actor.operation is not None for actor in self.world.actors)

    def teardown(self) -> None:
        try:
            self.cast.finish(lambda count: 0)
        finally:
            self.world.kill_all()


TestLabelStore = LabelStore.TestCase
TestLabelStore.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
