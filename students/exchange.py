"""A member's part in codistillation: the weights that it leaves at the end of a round, and those it learns from."""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from cluster.errors import SpecError, TrainingError
from cluster.modules import build_module, in_fast_layout, save_weights
from cluster.storage.lull import Lull
from cluster.storage.protocol import ObjectStat, ObjectStore
from students.group import Group
from students.live import load_stored
from students.members import peers_of
from students.objectives.objective import Batch
from students.rounds import clear_rounds, has_begun, has_round, publish_round, read_round, rounds_there, show_life
from students.task import TrainingTask

_POLL_S = 0.1
_SHOW_LIFE_EVERY_S = 5.0


@dataclass(frozen=True)
class Awaited:
    """The end of a round of a peer, which is not there."""

    member: TrainingTask
    peer: TrainingTask
    number: int

    def wait(self, store: ObjectStore, *, timeout_s: float) -> None:
        """Return when it is there; a peer that still waits for its workers may be as late as they are.

        Raises:
            PeerLateError: the peer has begun, and has written nothing for `timeout_s`, outages of the store not
                counted.
        """
        lull = Lull(timeout_s)
        seen = lull.look(partial(self._signs_of_life, store))
        while not lull.look(partial(has_round, store, self.peer, self.number)):
            if lull.is_over:
                found = lull.look(partial(self._signs_of_life, store))
                if found != seen or not lull.look(partial(has_begun, store, self.peer)):
                    lull.begin()
                elif lull.is_over:
                    raise self._late(store, timeout_s)
                seen = found
            time.sleep(_POLL_S)

    def _signs_of_life(self, store: ObjectStore) -> list[ObjectStat]:
        """Return what there is of the peer; while it trains it writes every few seconds that it does."""
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


class NeverHeardError(SpecError):
    """Members of a cohort would end before they learn from each other."""

    def __init__(self, num_steps: int, steps_per_round: int, burn_in: int) -> None:
        super().__init__(num_steps, steps_per_round, burn_in)
        self.num_steps, self.steps_per_round, self.burn_in = num_steps, steps_per_round, burn_in

    def __str__(self) -> str:
        return (
            f"cohort: members first learn from each other after {self.burn_in} round(s) of {self.steps_per_round} "
            f"step(s), and the training has {self.num_steps}; expected more epochs, or shorter rounds "
            "(cohort.exchange_every)."
        )


class Exchange:
    """Of one training; one that belongs to no cohort has nobody to exchange weights with."""

    def __init__(self, store: ObjectStore, task: TrainingTask, group: Group, *, steps_per_epoch: int) -> None:
        """Raise `NeverHeardError` if rounds, which a spec may count in steps, are too long for this training."""
        self._store, self._task, self._group, self._peers = store, task, group, peers_of(task)
        self._rounds = None
        if task.membership is not None:
            rounds = task.membership.method.rounds(steps_per_epoch=steps_per_epoch, epochs=task.epochs)
            if rounds.count <= rounds.burn_in:
                raise NeverHeardError(rounds.num_steps, rounds.steps_per_round, rounds.burn_in)
            self._rounds = rounds
        self._entered: int | None = None
        self._modules: dict[str, nn.Module] = {}
        self._shown_s = -math.inf

    def show_life(self) -> None:
        """Tell the peers, not too often, that this member is being trained."""
        if self._peers and self._group.rank == 0 and time.monotonic() - self._shown_s >= _SHOW_LIFE_EVERY_S:
            self._shown_s = time.monotonic()
            show_life(self._store, self._task)

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
