"""The log of a run while it goes on: its driver adds to it, and a thread writes what was added into the store."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

from cluster.errors import CoffeyError
from cluster.identity import canonical_json
from cluster.redaction import redacted
from cluster.storage.protocol import ObjectStore, StoreUnreachableError
from orchestrator.events import Event, EventBatch, RunOutcome, RunState, batch_key, is_asked_to_stop, now

_BATCH_S = 1.0
_HEARTBEAT_S = 5.0
_MOST_KEPT = 2000
"""Events that an outage may hold up, beside a batch that is on its way; of one step there are two a second."""


class RunLog:
    """Writes the events and the state of one run, without secrets. Any thread may add to it, and none waits for it.

    A thread of its own writes, also when nothing happens: the driver may wait for one answer longer than
    `SILENT_AFTER_S`. It also looks whether somebody asked the run to stop, and then calls `on_stop` once: by default,
    what SIGTERM does.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        *,
        lasting: ObjectStore | None = None,
        heartbeat_s: float = _HEARTBEAT_S,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """`lasting` takes the end of the run, and may take its time; by default `store` does."""
        self._store, self._lasting = store, lasting or store
        self._heartbeat_s, self._on_stop = heartbeat_s, on_stop or _terminate
        started = now()
        run = f"{name}/{started.replace('-', '').replace(':', '')[:15]}-{os.urandom(4).hex()}"
        self.state = RunState(run=run, name=name, state="running", started=started, updated=started)
        self._events: list[Event] = []
        self._batch: tuple[Event, ...] = ()
        self._num_batches = 0
        self._refusal: Exception | None = None
        self._noting, self._writing = threading.Lock(), threading.Lock()
        self._noted, self._closed = threading.Event(), threading.Event()
        self.flush()
        threading.Thread(target=self._write_on, name="run-log", daemon=True).start()

    @property
    def prefix(self) -> str:
        """Where the run's files lie."""
        return f"runs/{self.state.run}"

    def append(self, event: Event) -> None:
        """Keep an event; it is in the store within about a second, or when the store answers again.

        Of what an outage holds up the least is dropped once it is too much: how far a step was on its way.

        Raises:
            Exception: what writing met before, such as a store that refuses.
        """
        self._note(event.model_copy(update={"message": redacted(event.message)}))
        if (refusal := self._refusal) is not None:
            self._refusal = None
            raise refusal

    def close(self, outcome: RunOutcome, *, error: str | None = None, exit_code: int = 0, report: bool = False) -> None:
        """Write how the run ended; waits as long as the store that takes it does."""
        self._closed.set()
        self._noted.set()
        error = None if error is None else redacted(error)
        with self._noting:
            if error is not None:
                self._events.append(Event(at=now(), event="failed", step=self.state.step, message=error))
            update = {"state": outcome, "error": error, "exit_code": exit_code, "report": report, "updated": now()}
            self.state = self.state.model_copy(update=update)
        with self._writing:
            self._write_to(self._lasting)

    def close_within(
        self, limit_s: float, outcome: RunOutcome, *, error: str | None = None, exit_code: int = 0
    ) -> None:
        """Write how the run ended, or give up after so long: who was told to end may not wait for a store."""

        def close() -> None:
            with contextlib.suppress(CoffeyError):
                self.close(outcome, error=error, exit_code=exit_code)

        closing = threading.Thread(target=close, name="run-log-end", daemon=True)
        closing.start()
        closing.join(limit_s)

    def flush(self) -> None:
        """Write what has been kept."""
        with self._writing:
            self._write_to(self._store)

    def _note(self, event: Event) -> None:
        with self._noting:
            if len(self._events) >= _MOST_KEPT:
                self._events = [kept for kept in self._events if kept.event != "advanced"]
            self._events.append(event)
            update = {"updated": event.at, "step": event.step or self.state.step, "message": event.message}
            self.state = self.state.model_copy(update=update)
        self._noted.set()

    def _write_to(self, store: ObjectStore) -> None:
        while True:
            with self._noting:
                # A batch that may have been written, though nobody said so, may have been read: it stays as it is.
                if not self._batch:
                    self._batch, self._events = tuple(self._events), []
                batch, state = self._batch, self.state
            if not batch:
                break
            store.put(batch_key(self.prefix, self._num_batches), canonical_json(EventBatch(events=batch)))
            self._num_batches, self._batch = self._num_batches + 1, ()
        # Last: whoever reads that the run has ended finds every event.
        store.put(f"{self.prefix}/state.json", canonical_json(state))

    def _write_on(self) -> None:
        looked_s, is_stopping = time.monotonic(), False
        while not self._closed.is_set():
            if self._noted.wait(self._heartbeat_s):
                self._closed.wait(min(_BATCH_S, self._heartbeat_s))  # events of about a second make a batch
                self._noted.clear()
            try:
                with self._writing:
                    if self._closed.is_set():
                        return
                    with self._noting:
                        self.state = self.state.model_copy(update={"updated": now()})
                    self._write_to(self._store)
                if not is_stopping and time.monotonic() - looked_s >= self._heartbeat_s:
                    looked_s = time.monotonic()
                    is_stopping = is_asked_to_stop(self._store, self.state)
                    if is_stopping and not self._closed.is_set():
                        self._note(Event(at=now(), event="said", message="Somebody asked this run to stop."))
                        self._on_stop()
            except StoreUnreachableError:
                continue  # whether a run outlives an outage is for those to say who need an answer
            except Exception as error:  # a writer that died of it would leave a run that works looking lost
                self._refusal = error  # for the next event, in a thread that can end the run


def _terminate() -> None:
    # The main thread, and no other: a signal wakes it from whatever it waits for.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
