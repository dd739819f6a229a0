"""A member's part in codistillation: the weights that it leaves at the end of a round, and those it learns from."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import nn

from cluster.errors import TrainingError
from cluster.modules import build_module, in_fast_layout, save_weights
from cluster.storage.protocol import ObjectStat, ObjectStore
from students.group import Group
from students.live import load_stored
from students.members import peers_of
from students.objectives.objective import Batch
from students.rounds import clear_rounds, has_round, publish_round, read_round, rounds_there
from students.task import TrainingTask

_POLL_S = 0.1


@dataclass(frozen=True)
class Awaited:
    """The end of a round of a peer, which is not there."""

    member: TrainingTask
    peer: TrainingTask
    number: int

    def wait(self, store: ObjectStore, *, timeout_s: float) -> None:
        """Return when it is there.

        Raises:
            PeerLateError: the peer has written nothing for `timeout_s`.
        """
        seen, deadline_s = self._signs_of_life(store), time.monotonic() + timeout_s
        while not has_round(store, self.peer, self.number):
            if time.monotonic() > deadline_s:
                found = self._signs_of_life(store)
                if found == seen:
                    raise self._late(store, timeout_s)
                seen, deadline_s = found, time.monotonic() + timeout_s
            time.sleep(_POLL_S)

    def _signs_of_life(self, store: ObjectStore) -> list[ObjectStat]:
        """Return what there is of the peer; while it trains it writes its progress and checkpoints."""
        return list(store.list(f"{self.peer.prefix}/"))

    def _late(self, store: ObjectStore, timeout_s: float) -> "PeerLateError":
        rounds = ", ".join(map(str, rounds_there(store, self.peer)))
        found = f"{store.uri}/{self.peer.prefix} holds {f'round {rounds}' if rounds else 'no round'}"
        return PeerLateError(self.member.name, self.peer.name, self.number, found, timeout_s)


class PeerLateError(TrainingError):
    """A member waits for a peer that has stopped."""

    def __init__(self, member: str, peer: str, number: int, found: str, timeout_s: float) -> None:
        super().__init__(member, peer, number, found, timeout_s)
        self.member, self.peer, self.number, self.found, self.timeout_s = member, peer, number, found, timeout_s

    def __str__(self) -> str:
        return (
            f"{self.member} waits for {self.peer}, which has not ended round {self.number} and has written nothing for "
            f"{self.timeout_s:.0f} s; {self.found}. See what {self.peer} says, then run the "
            "same command again: all members go on from their last checkpoints. If later rounds are there, "
            f"{self.member} has lost its checkpoints: remove the folders of all members, and they start anew."
        )


class Exchange:
    """Of one training; one that belongs to no cohort has nobody to exchange weights with."""

    def __init__(self, store: ObjectStore, task: TrainingTask, group: Group, *, steps_per_epoch: int) -> None:
        self._store, self._task, self._group, self._peers = store, task, group, peers_of(task)
        self._rounds = None
        if task.membership is not None:
            self._rounds = task.membership.method.rounds(steps_per_epoch=steps_per_epoch, epochs=task.epochs)
        self._entered: int | None = None
        self._modules: dict[str, nn.Module] = {}

    def is_due(self, step: int) -> bool:
        """Return whether there is anything to do before `step` is taken."""
        return self._rounds is not None and self._rounds.at(step) != self._entered

    def publishes(self, step: int) -> bool:
        """Return whether peers wait for the weights as they are before `step`."""
        rounds = self._rounds
        return rounds is not None and step > 0 and rounds.begins(step) and rounds.is_exchanged(rounds.at(step) - 1)

    def publish(self, step: int, module: nn.Module) -> None:
        """Leave the weights with which a round has ended before `step`; those of rank 0."""
        assert self._rounds is not None, "a member publishes"  # noqa: S101
        if self._group.rank == 0:
            publish_round(self._store, self._task, self._rounds.at(step) - 1, save_weights(module))

    def listen(self, step: int) -> Generator[Awaited]:
        """Load what the peers teach with in the round of `step`; yields what is not there, until it is."""
        assert self._rounds is not None, "a member listens"  # noqa: S101
        self._entered = self._rounds.at(step)
        heard = self._rounds.heard_in(self._entered)
        if heard is None:
            return
        for peer in self._peers:
            # All workers go by what rank 0 has seen: they may have another training to turn to.
            while not self._group.from_first(int(has_round(self._store, peer, heard))):
                yield Awaited(self._task, peer, heard)
            self._load(peer, heard)
        if self._group.rank == 0:
            # All peers have ended this round too, saved where they stand, and do not ask for an earlier one again.
            clear_rounds(self._store, self._task, before=heard)

    def heard(self, batch: Batch) -> Batch:
        """Return the batch with what the peers say of it, once they say anything; without gradient."""
        with torch.no_grad():  # not inference mode: nothing computed there may take part in a backward pass
            return replace(batch, peer_logits=tuple(module(batch.inputs).float() for module in self._modules.values()))

    def _load(self, peer: TrainingTask, number: int) -> None:
        if peer.name not in self._modules:
            self._modules[peer.name] = in_fast_layout(build_module(peer.model)).eval().to(self._group.device)
        weights = read_round(self._store, peer, number).weights
        load_stored(self._store, self._modules[peer.name], weights, name=f"peer {peer.name}")
