"""The processes of one simulation, how they begin, and how everything ends once nothing fails any more."""

from collections.abc import Callable

from tests.simulation.auditor import Violation
from tests.simulation.jobs import Code, Collector, Job, Reader
from tests.simulation.world import Fate, World

MAX_CALM_OPERATIONS = 600
"""Within so many, everyone who still runs must end once nothing fails any more."""


class Cast:
    """Starts processes in a world of its own."""

    def __init__(self, code: Code) -> None:
        self.world = World()
        self._code, self._num_started = code, 0

    def start_job(self) -> Job:
        """Start a job over the one label set."""
        job = Job(self._next(), self.world.auditor, self._code)
        self.world.start(f"job {self._num_started}", job)
        return job

    def start_reader(self) -> None:
        """Start a student."""
        self.world.start(f"reader {self._next()}", Reader(self.world.auditor, self._code))

    def start_collector(self, *, skew_s: float, grace_s: float) -> None:
        """Start a collection of garbage by a clock that goes wrong by `skew_s`."""
        collector = Collector(self.world.now_s + skew_s, grace_s, self._code)
        self.world.start(f"collector {self._next()}", collector)

    def finish(self, choose: Callable[[int], int]) -> None:
        """Let everyone end, and then one more job, a reader and a collection.

        `choose(n)` returns who is next, from 0 to n - 1.

        Raises:
            Violation: work was lost or done again, somebody does not end, or something is left behind.
        """
        self._run_out(choose)
        committed = self.world.auditor.committed()
        job = self.start_job()
        self.start_reader()
        self._run_out(choose)
        if again := committed & set(job.computed):
            raise Violation(f"committed shards {again} were labelled again")
        self.world.auditor.check_complete()
        while self.world.late:
            self.world.land(0)
        self.start_collector(skew_s=1.0, grace_s=0.0)
        self._run_out(choose)
        self.world.auditor.check_clean()

    def _run_out(self, choose: Callable[[int], int]) -> None:
        world = self.world
        for _ in range(MAX_CALM_OPERATIONS):
            if not world.actors:
                return
            move = choose(len(world.actors) + len(world.late))
            if move < len(world.actors):
                world.advance(world.actors[move], Fate.DONE)
            else:
                world.land(move - len(world.actors))
        raise Violation(f"{len(world.actors)} processes do not end, though nothing fails any more")

    def _next(self) -> int:
        self._num_started += 1
        return self._num_started
