"""`evaluations/….json`: every figure of a job that does not depend on when it ran."""

from cluster.config import Config
from orchestrator.report.record import Agreement, CalibrationResult, Contribution, ModelResult, Sample, Summary


class EvaluationRecord(Config):
    """All models on the test rows."""

    models: tuple[ModelResult, ...]
    calibrations: tuple[CalibrationResult, ...]
    contributions: tuple[Contribution, ...]
    agreements: tuple[Agreement, ...]
    samples: tuple[Sample, ...]
    summary: Summary
