"""A training cut into rounds, at whose ends members of a cohort exchange weights. Pure functions of the step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rounds:
    """Rounds of equal length, of which the last one takes what is left."""

    num_steps: int
    """Of the whole training."""
    steps_per_round: int
    burn_in: int
    """Rounds, at least one, in which a member hears nobody."""

    @property
    def count(self) -> int:
        """Number of rounds."""
        return -(-self.num_steps // self.steps_per_round)

    def at(self, step: int) -> int:
        """Return the round, from 0, that takes step number `step`."""
        return step // self.steps_per_round

    def begins(self, step: int) -> bool:
        """Return whether `step` is the first one of a round."""
        return step % self.steps_per_round == 0

    def is_exchanged(self, number: int) -> bool:
        """Return whether peers learn from what this round ends with."""
        return self.burn_in <= number + 1 < self.count

    def heard_in(self, number: int) -> int | None:
        """Return the round with whose weights peers teach in round `number`; None while a member learns alone."""
        return number - 1 if number >= self.burn_in else None
