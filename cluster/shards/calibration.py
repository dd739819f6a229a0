"""A teacher's calibration in the store: written by whoever calibrates, read by whoever fuses.

    temperature   z' = z / T
    vector        z' = a ⊙ (z / T - mean_c(z / T)) + b        one scale a_c and one bias b_c for each class

Classes that the teacher does not know have the logit minus infinity before and after, and no part in the mean. Taking
it away changes no distribution. It makes the result independent of the constant that a teacher may add to
all its logits, which its scales would otherwise turn into a preference for some classes.
"""

from typing import Literal

import numpy as np

from cluster.config import Config
from cluster.identity import identity_of
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore

RECIPE = 1

Method = Literal["temperature", "vector"]


class Calibration(Config):
    """What turns a teacher's logits into calibrated ones; by default nothing is changed."""

    temperature: float = 1.0
    scales: tuple[float, ...] = ()
    """One for each class of the data set; empty where nothing but the temperature was fitted, and so are the biases."""
    biases: tuple[float, ...] = ()

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return the calibrated logits, `[..., C]` like those given and of the same type."""
        cooled: np.ndarray = logits / logits.dtype.type(self.temperature)
        if not self.scales:
            return cooled
        scales, biases = (np.asarray(values, logits.dtype) for values in (self.scales, self.biases))
        known = np.isfinite(cooled)
        sums = np.where(known, cooled, 0).sum(axis=-1, keepdims=True)
        means = sums / known.sum(axis=-1, keepdims=True).astype(logits.dtype)
        calibrated: np.ndarray = (cooled - means) * scales + biases
        return calibrated


class CalibrationRecord(Calibration):
    """The calibration of one teacher, fitted on held-out rows."""

    teacher: str
    temperature: float
    rows: int
    """Labelled rows it was fitted on."""
    nll_before: float
    """Mean negative log-likelihood on these rows, nats."""
    nll_after: float


def calibration_key(held_out_labels: LabelSetRecord, method: Method = "temperature") -> str:
    """Return the key of the calibration that follows from a teacher's labels of the held-out rows."""
    facts: dict[str, object] = {"labels": held_out_labels.identity}
    if method != "temperature":
        facts["method"] = method
    return f"calibrations/{held_out_labels.teacher}-{identity_of('calibration', RECIPE, facts)}.json"


def calibration_of(store: ObjectStore, key: str | None) -> Calibration:
    """Return the calibration in the record at `key`; one that changes nothing where there is no key."""
    return Calibration() if key is None else read_record(store, key, CalibrationRecord)
