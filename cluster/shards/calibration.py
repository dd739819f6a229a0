"""A teacher's temperature in the store: written by whoever calibrates, read by whoever fuses."""

from cluster.config import Config
from cluster.identity import identity_of
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore

RECIPE = 1


class CalibrationRecord(Config):
    """The temperature that one teacher's logits are divided by, fitted on held-out rows."""

    teacher: str
    temperature: float
    rows: int
    """Labelled rows it was fitted on."""
    nll_before: float
    """Mean negative log-likelihood on these rows, nats."""
    nll_after: float


def calibration_key(held_out_labels: LabelSetRecord) -> str:
    """Return the key of the temperature that follows from a teacher's labels of the held-out rows."""
    identity = identity_of("calibration", RECIPE, {"labels": held_out_labels.identity})
    return f"calibrations/{held_out_labels.teacher}-{identity}.json"


def temperature_of(store: ObjectStore, key: str | None) -> float:
    """Return the temperature in the record at `key`; 1 where nothing is calibrated and there is no key."""
    return 1.0 if key is None else read_record(store, key, CalibrationRecord).temperature
