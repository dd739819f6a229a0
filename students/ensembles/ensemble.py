"""The teachers of a job as one: each calibrated, and combined as the job's targets say.

Training, the step that writes fused labels, and the report all ask this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from cluster.shards.calibration import Calibration, calibration_of
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from students.ensembles.record import EnsembleRecord
from students.fusion import Tables, combined, shares_of
from students.spec import Combine
from students.task import Targets

T = TypeVar("T")


@dataclass(frozen=True)
class Ensemble:
    """Calibrated and combined teachers."""

    combine: Combine
    places: tuple[int, ...]
    """Those of all teachers that have a say: a selection leaves out the others, whose labels nobody needs to read."""
    calibrations: tuple[Calibration, ...]
    """One for each of these, and so are the weights."""
    weights: tuple[float, ...]
    tables: Tables | None = None

    @classmethod
    def open(cls, store: ObjectStore, targets: Targets) -> "Ensemble":
        """Read from the store what held-out rows have taught.

        Raises:
            ObjectMissingError: a calibration or the combination has not been fitted yet.
        """
        calibrations = [calibration_of(store, part.calibration) for part in targets.parts]
        if targets.ensemble is None:
            return cls.weighted(targets.combine, [part.weight for part in targets.parts], calibrations)
        return cls.learned(targets.combine, read_record(store, targets.ensemble, EnsembleRecord), calibrations)

    @classmethod
    def learned(
        cls, combine: Combine, record: EnsembleRecord, calibrations: Sequence[Calibration] | None = None
    ) -> "Ensemble":
        """Return the combination that held-out rows have taught; without calibrations it reads calibrated logits."""
        calibrations = calibrations or [Calibration()] * len(record.teachers)
        if record.shares:
            return cls.weighted(combine, record.shares, calibrations)
        tables = Tables(torch.tensor(record.weights), torch.tensor(record.bias))
        places = tuple(range(len(record.teachers)))
        return cls(combine, places, tuple(calibrations), (1.0,) * len(places), tables)

    @classmethod
    def weighted(cls, combine: Combine, weights: Sequence[float], calibrations: Sequence[Calibration]) -> "Ensemble":
        """Return the combination with these weights, one for each teacher."""
        places = tuple(place for place, weight in enumerate(weights) if weight > 0)
        return cls(
            combine, places, tuple(calibrations[place] for place in places), tuple(weights[place] for place in places)
        )

    @property
    def shares_K(self) -> torch.Tensor:
        """The weights, made to sum to 1."""
        return shares_of(self.weights)

    def used(self, of_teachers: Sequence[T]) -> list[T]:
        """Return those of one thing for each teacher that belong to teachers with a say."""
        return [of_teachers[place] for place in self.places]

    def __call__(self, logits_KNC: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the fused log-probabilities, float32 `[N, C]`, of the raw logits of the teachers at `places`."""
        log_probs_KNC = self.calibrated(logits_KNC)
        return self.combined(log_probs_KNC, self.shares_K.to(log_probs_KNC)[:, None])

    def calibrated(self, logits_KNC: Sequence[np.ndarray]) -> torch.Tensor:
        """Return what each of these teachers says, calibrated: log-probabilities, float32 `[K, N, C]`."""
        each = zip(self.calibrations, logits_KNC, strict=True)
        calibrated_KNC = torch.stack([torch.from_numpy(fitted.apply(logits_NC)) for fitted, logits_NC in each])
        return torch.log_softmax(calibrated_KNC.to(torch.float32), dim=-1)

    def combined(self, log_probs_KNC: torch.Tensor, shares_KN: torch.Tensor) -> torch.Tensor:
        """Return what they say together with shares that sum to 1 over them, `[N, C]`."""
        return combined(log_probs_KNC, shares_KN, combine=self.combine, tables=self.tables)
