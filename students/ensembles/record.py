"""`ensembles/….json`: what held-out rows taught of how to combine the teachers of a job.

Like a calibration it is named by all that determines it, written once, and read by training, by `fuse` and by the
report.
"""

from collections.abc import Sequence

from cluster.config import Config
from cluster.errors import SpecError
from cluster.identity import identity_of
from cluster.shards.labelset import LabelSetRecord
from students.spec import FusionConfig

RECIPE = 1

MOST_WEIGHTS = 1_000_000
"""Tables are records, and these are JSON; nor could held-out rows tell more weights apart."""


class EnsembleRecord(Config):
    """A combination of teachers, and how it does on the rows that taught it. K teachers, C classes."""

    teachers: tuple[str, ...]
    rows: int
    """Held-out rows it was learned from."""
    accuracy: float
    """Share of these rows on which the combination is right."""
    nll: float
    """Its mean negative log-likelihood on them, nats."""
    shares: tuple[float, ...] = ()
    """Of a greedy selection: the say of each teacher, 0 for one that is left out; they sum to 1."""
    weights: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """Of `dawid_skene` and `stacking`: `[K, C, C]`, from what a teacher says to what that tells of each class."""
    bias: tuple[float, ...] = ()
    """Of these two: one for each class."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Teachers that a selection has left out."""
        return tuple(name for name, share in zip(self.teachers, self.shares, strict=False) if share == 0)


class TooManyWeightsError(SpecError):
    """A combination would have to learn more than a record should hold."""

    def __init__(self, combine: str, teachers: int, classes: int) -> None:
        super().__init__(combine, teachers, classes)
        self.combine, self.teachers, self.classes = combine, teachers, classes

    def __str__(self) -> str:
        return (
            f"fusion.combine is {self.combine}, which learns {self.classes} x {self.classes} weights of each teacher: "
            f"{self.teachers * self.classes**2:,} in all; expected at most {MOST_WEIGHTS:,}. For so many classes use "
            "mean_probability or mean_logit, with `select: greedy` if held-out rows should decide who has a say."
        )


def check_num_weights(fusion: FusionConfig, *, teachers: int, classes: int) -> None:
    """Raise `TooManyWeightsError` if the tables of a combination would be too large."""
    if fusion.has_tables and teachers * classes**2 > MOST_WEIGHTS:
        raise TooManyWeightsError(fusion.combine, teachers, classes)


def ensemble_key(
    fusion: FusionConfig, held_out: Sequence[LabelSetRecord], calibrations: Sequence[str | None]
) -> str | None:
    """Return the key of what is learned from the teachers' labels of the held-out rows; None if nothing is."""
    if not fusion.is_learned:
        return None
    facts: dict[str, object] = {
        "combine": fusion.combine,
        "select": fusion.select_by if fusion.select == "greedy" else None,
        "labels": [labels.identity for labels in held_out],
        "calibrations": list(calibrations),
    }
    return f"ensembles/{fusion.combine}-{identity_of('ensemble', RECIPE, facts)}.json"
