"""Synchronous code that stops at every operation on its store, until it is told how that operation ended.

Each actor has a thread, but exactly one thread runs at any time: whoever resumes an actor waits until it stops again.
So what happens depends on the order in which actors are resumed, and on nothing else.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cluster.storage.protocol import ObjectStat, ObjectStore
from tests.fixtures.crashing_store import Killed

PAGE_LENGTH = 3
"""Objects in one page of a listing: other actors may come between two pages."""
MAX_ACTORS = 16
"""More at one time would wait for each other."""

_threads = ThreadPoolExecutor(MAX_ACTORS)  # starting a thread for each actor would take half of the time


@dataclass(frozen=True)
class Operation:
    """What an actor asks of the store."""

    name: str
    key: str
    body: bytes = b""
    after: str = ""
    """A listing goes on behind this key."""

    @property
    def writes(self) -> bool:
        """Whether it can change the store, and so land after its caller has gone."""
        return self.name in {"put", "put_if_absent", "delete"}


class Actor:
    """One process: runs `work` on a store of its own until the first operation, and from there on when resumed."""

    def __init__(self, name: str, work: Callable[[ObjectStore], None]) -> None:
        self.name, self._work = name, work
        self.operation: Operation | None = None
        """What it waits for; None once it has ended."""
        self.error: BaseException | None = None
        """What it ended with."""
        self._answer: object = None
        self._raised: BaseException | None = None
        self._turn, self._stopped = threading.Lock(), threading.Lock()
        self._turn.acquire()
        self._stopped.acquire()
        _threads.submit(self._run)
        self._stopped.acquire()

    def resume(self, answer: object) -> None:
        """Let the operation return `answer`."""
        self._answer, self._raised = answer, None
        self._turn.release()
        self._stopped.acquire()

    def throw(self, error: BaseException) -> None:
        """Let the operation raise `error`; after `Killed`, so does whatever clean-up code attempts."""
        self._answer, self._raised = None, error
        self._turn.release()
        self._stopped.acquire()
        if isinstance(error, Killed):
            while self.operation is not None:
                self._turn.release()
                self._stopped.acquire()

    def ask(self, operation: Operation) -> object:
        """Stop, in the actor's own thread, until the operation has ended."""
        self.operation = operation
        self._stopped.release()
        self._turn.acquire()
        if self._raised is not None:
            raise self._raised
        return self._answer

    def _run(self) -> None:
        try:
            self._work(ActorStore(self))
        except BaseException as error:
            self.error = error
        self.operation = None
        self._stopped.release()


class ActorStore:
    """The store as one actor sees it."""

    uri = "simulated"

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def get(self, key: str) -> memoryview:
        return self._actor.ask(Operation("get", key))

    def put(self, key: str, body: bytes | memoryview) -> None:
        self._actor.ask(Operation("put", key, bytes(body)))

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        return self._actor.ask(Operation("put_if_absent", key, bytes(body)))

    def exists(self, key: str) -> bool:
        return self._actor.ask(Operation("exists", key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        after = ""
        while page := self._actor.ask(Operation("list", prefix, after=after)):
            yield from page
            after = page[-1].key

    def delete(self, key: str) -> None:
        self._actor.ask(Operation("delete", key))
