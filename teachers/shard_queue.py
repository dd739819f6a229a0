"""Which shard is labelled next, and what happens to one that failed. Pure: no Ray, no clock, no I/O."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_ATTEMPTS = 3
"""Failures after which a shard is set aside, so that one bad shard holds up no other."""

MAX_LOSSES = 10
"""Replicas that may die or hang with a shard in their hands before it is set aside.

A replica that is killed, evicted or preempted says nothing of what it had in hand, and one whose process a shard brings
down ends in the same way: only repetition tells the two apart. Even where every third request loses its replica, ten
losses in a row befall one shard in 60,000. Until a teacher has labelled its first shard, losses count as failures do.
"""

MAX_QUARANTINED = 3
"""Shards set aside after which the teacher itself is held to be broken."""

ShardT = TypeVar("ShardT")


@dataclass
class ShardQueue(Generic[ShardT]):
    """Shards that wait, are out, are done, or are set aside."""

    waiting: deque[ShardT]
    out: set[ShardT] = field(default_factory=set)
    done: set[ShardT] = field(default_factory=set)
    quarantined: dict[ShardT, BaseException] = field(default_factory=dict)
    failures: dict[ShardT, int] = field(default_factory=dict)
    losses: dict[ShardT, int] = field(default_factory=dict)
    """How many replicas died with a shard in their hands, for shards that are not labelled."""

    @classmethod
    def of(cls, shards: Sequence[ShardT]) -> "ShardQueue[ShardT]":
        """Return a queue that hands out `shards` in their order."""
        return cls(deque(shards))

    def take(self) -> ShardT | None:
        """Return the next shard, or None if there is none to hand out now.

        Of shards that were lost more than once one is out at a time: if replicas die of it, the others are soon clear.
        """
        if self.gives_up:
            return None
        suspects = {shard for shard, losses in self.losses.items() if losses > 1}
        is_suspect_out = not suspects.isdisjoint(self.out)
        for place, shard in enumerate(self.waiting):
            if not (is_suspect_out and shard in suspects):
                del self.waiting[place]
                self.out.add(shard)
                return shard
        return None

    def succeeded(self, shard: ShardT) -> None:
        """Note a committed shard."""
        self.out.discard(shard)
        self.losses.pop(shard, None)
        self.done.add(shard)

    def failed(self, shard: ShardT, error: BaseException) -> None:
        """Put a shard back in front, or set it aside after its last attempt."""
        self.out.discard(shard)
        self.failures[shard] = self.failures.get(shard, 0) + 1
        if self.failures[shard] < MAX_ATTEMPTS:
            self.waiting.appendleft(shard)
        else:
            self.quarantined[shard] = error

    def lost(self, shard: ShardT, error: BaseException) -> None:
        """Put a shard back in front whose replica died, or set it aside if replicas die wherever it goes."""
        self.out.discard(shard)
        self.losses[shard] = self.losses.get(shard, 0) + 1
        if self.losses[shard] < (MAX_LOSSES if self.done else MAX_ATTEMPTS):
            self.waiting.appendleft(shard)
        else:
            self.quarantined[shard] = error

    @property
    def gives_up(self) -> bool:
        """Whether so many shards were set aside that trying others would only waste time."""
        return len(self.quarantined) >= MAX_QUARANTINED

    @property
    def is_finished(self) -> bool:
        """Whether nothing is out and nothing more will be handed out."""
        return not self.out and (not self.waiting or self.gives_up)
