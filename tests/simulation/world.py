"""Actors, a store in memory, writes on their way, and a clock: all that a schedule can move."""

from collections.abc import Callable
from enum import Enum, auto

from cluster.errors import CoffeyError
from cluster.shards.encoding import ShardFormatError
from cluster.shards.records import BadRecordError
from cluster.shards.verified import ShardCorruptError
from cluster.storage.protocol import ObjectMissingError, ObjectStat, ObjectStore, StoreUnreachableError
from tests.fixtures.crashing_store import Killed
from tests.simulation.actors import PAGE_LENGTH, Actor, Operation
from tests.simulation.auditor import Auditor, Violation


class Fate(Enum):
    """What becomes of one operation and of its caller."""

    DONE = auto()
    KILLED_BEFORE = auto()
    KILLED_AFTER = auto()
    KILLED_IN_FLIGHT = auto()
    """The caller is gone; what it wrote lands later, or never."""
    REFUSED = auto()
    """No effect, and no answer until the deadline."""
    ANSWER_LOST = auto()
    """It took effect; the caller only knows that it does not know."""
    LANDS_LATE = auto()
    """The caller gives up; what it wrote lands later, or never."""
    SENT_AGAIN = auto()
    """The first answer was lost, and the client's own repetition was answered."""
    DELIVERED_TWICE = auto()
    """It takes effect now, and once more later."""
    DAMAGED = auto()
    """One bit of what was read is wrong."""


_FATES_OF_READS = {Fate.KILLED_BEFORE, Fate.REFUSED}


def fates_of(operation: Operation) -> set[Fate]:
    """Return the faults that can meet `operation`."""
    if operation.writes:
        return set(Fate) - {Fate.DONE, Fate.DAMAGED}
    return _FATES_OF_READS | {Fate.DAMAGED} if operation.name == "get" else _FATES_OF_READS


class World:
    """One simulated cluster. Raises `Violation` as soon as something is wrong that no fault excuses."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.actors: list[Actor] = []
        """Those that have not ended."""
        self.late: list[Operation] = []
        """Writes that are still on their way."""
        self.trace: list[tuple[object, ...]] = []
        self.num_operations = self.num_faults = 0
        self._objects: dict[str, bytes] = {}
        self._modified_s: dict[str, float] = {}
        self._damaged: set[Actor] = set()
        self.auditor = Auditor(self._objects)

    def start(self, name: str, work: Callable[[ObjectStore], None]) -> Actor:
        """Let another process begin."""
        self.trace.append(("start", name))
        actor = Actor(name, work)
        self.actors.append(actor)
        self._settle(actor)
        return actor

    def advance(self, actor: Actor, fate: Fate, *, bit: int = 0) -> None:
        """Let the operation that `actor` waits for end in this way, and `actor` go on to its next one."""
        operation = actor.operation
        assert operation is not None
        self.num_operations += 1
        self.num_faults += fate is not Fate.DONE
        self.trace.append((actor.name, operation.name, operation.key, fate.name))
        match fate:
            case Fate.DONE:
                self._answer(actor, operation)
            case Fate.KILLED_BEFORE:
                actor.throw(Killed())
            case Fate.KILLED_AFTER:
                self._perform(operation)
                actor.throw(Killed())
            case Fate.KILLED_IN_FLIGHT:
                self.late.append(operation)
                actor.throw(Killed())
            case Fate.REFUSED:
                actor.throw(_unreachable(operation))
            case Fate.ANSWER_LOST:
                self._perform(operation)
                actor.throw(_unreachable(operation))
            case Fate.LANDS_LATE:
                self.late.append(operation)
                actor.throw(_unreachable(operation))
            case Fate.SENT_AGAIN:
                self._perform(operation)
                self._answer(actor, operation)
            case Fate.DELIVERED_TWICE:
                self.late.append(operation)
                self._answer(actor, operation)
            case Fate.DAMAGED:
                self._damaged.add(actor)
                self._answer(actor, operation, bit=bit)
        self._settle(actor)

    def land(self, place: int) -> None:
        """Let a late write take effect."""
        operation = self.late.pop(place)
        self.trace.append(("late", operation.name, operation.key))
        self._perform(operation)

    def drop(self, place: int) -> None:
        """Let a late write be lost for good."""
        operation = self.late.pop(place)
        self.trace.append(("lost", operation.name, operation.key))

    def kill_all(self) -> None:
        """End every process, and with it every thread of this simulation."""
        for actor in list(self.actors):
            actor.throw(Killed())
            self.actors.remove(actor)

    def _answer(self, actor: Actor, operation: Operation, bit: int | None = None) -> None:
        try:
            answer = self._perform(operation)
        except ObjectMissingError as error:
            actor.throw(error)
        else:
            actor.resume(answer if bit is None else _flipped(answer, bit))

    def _perform(self, operation: Operation) -> object:
        key = operation.key
        match operation.name:
            case "get" if key in self._objects:
                return memoryview(self._objects[key])
            case "get":
                raise ObjectMissingError("simulated", key)
            case "exists":
                return key in self._objects
            case "list":
                found = sorted(other for other in self._objects if other.startswith(key) and other > operation.after)
                return [self._stat(other) for other in found[:PAGE_LENGTH]]
            case "put_if_absent" if key in self._objects:
                return False
            case "put" | "put_if_absent":
                before = self._objects.get(key)
                self._objects[key], self._modified_s[key] = operation.body, self.now_s
                self.auditor.landed(key, before)
                return True
            case "delete":
                if (before := self._objects.pop(key, None)) is not None:
                    self.auditor.landed(key, before)
                return None
        raise AssertionError(operation)

    def _stat(self, key: str) -> ObjectStat:
        return ObjectStat(key, len(self._objects[key]), self._modified_s[key])

    def _settle(self, actor: Actor) -> None:
        if actor.operation is not None:
            return
        self.actors.remove(actor)
        error = actor.error
        self.trace.append(("end", actor.name, type(error).__name__))
        match error:
            case None | Killed() | StoreUnreachableError():
                return
            case ShardCorruptError() | ShardFormatError() | BadRecordError() if actor in self._damaged:
                return
            case Violation():
                raise error
            case CoffeyError():
                raise Violation(f"{actor.name} was told: {error}") from error
            case _:
                raise error


def _unreachable(operation: Operation) -> StoreUnreachableError:
    return StoreUnreachableError("simulated", f"{operation.name} {operation.key}", "as the schedule wants it")


def _flipped(body: memoryview, bit: int) -> memoryview:
    place, mask = bit // 8 % len(body), 1 << bit % 8
    return memoryview(bytes(byte ^ mask if at == place else byte for at, byte in enumerate(body)))
