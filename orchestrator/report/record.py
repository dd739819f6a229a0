"""`report.json`: everything a run has to say, as one record. The HTML page shows this and nothing else."""

from typing import Annotated, Literal

from pydantic import Field

from cluster.config import Config
from cluster.shards.calibration import Method
from students.reliability import ReliabilityBin, Share

Role = Literal["teacher", "ensemble", "baseline", "generation", "student", "member", "exit"]
"""`member`: of the cohort in which the student learned; one of them, or all as one, is the student. `exit`: the student
as far as one of its modules, with a head of its own."""


class CalibrationResult(Config):
    """One teacher before and after its calibration, on the test rows of classes that it knows; the calibration comes
    from the held-out rows."""

    teacher: str
    temperature: float
    method: Method = "temperature"
    """`vector` where a scale and a bias for each class were fitted too."""
    ece_before: Share
    ece_after: Share
    nll_before: float
    nll_after: float
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]


class Contribution(Config):
    """The ensemble on the test rows without one of its teachers, combined anew from the others."""

    teacher: str
    share: Share | None
    """The teacher's part of all weights; 0 if it was left out, None where a table takes the place of weights, or
    these differ from row to row."""
    accuracy: Share
    nll: float | None
    """Mean negative log-likelihood of the true class, nats; None where no other teacher knows the class of a row."""


class OwnResult(Config):
    """A model that does not know the classes of all test rows, on those whose class it knows: a specialist, or an
    ensemble that asks none but specialists about a row."""

    classes: Annotated[int, Field(ge=2)]
    rows: int
    accuracy: Share


class ModelResult(Config):
    """One model on the test rows, at its last epoch."""

    name: str
    """Such as `wide`, `ensemble`, `student`, and `student@layer` for the student that ends at one of its modules."""
    role: Role
    seed: int | None = None
    accuracy: Share
    """Of a teacher that knows some classes too on all rows: it is wrong on those of others."""
    own: OwnResult | None = None
    """What such a teacher does on rows of its classes, the only ones that its NLL and ECE are of."""
    nll: float
    """Mean negative log-likelihood of the true class, nats."""
    ece: Share
    """Expected calibration error with 15 equal bins (1706.04599)."""
    parameters: int | None
    """For an exit those that it uses."""
    num_bytes: int
    """Bytes of the weights in the store; for an exit of the parameters that it uses."""
    latency_ms: float
    """Median time of one row through the model, one thread; for the ensemble the sum of the teachers it uses."""
    epochs: int | None = None
    """Length of training; for a baseline the candidate that did best on the held-out rows."""


class CurvePoint(Config):
    """One epoch of one model; accuracy and NLL are those of the held-out rows."""

    epoch: int
    loss: float
    accuracy: Share
    nll: float


class Curve(Config):
    """How one model learned."""

    model: str
    role: Role
    seed: int | None = None
    points: tuple[CurvePoint, ...]


class CohortMember(Config):
    """One member of a cohort at its last epoch, on the held-out rows."""

    name: str
    parameters: int
    accuracy: Share
    nll: float


class CohortResult(Config):
    """The students that learned together with one seed, and what became of them."""

    seed: int
    method: str
    members: tuple[CohortMember, ...]
    exported: str
    """The name of a member, or `fused` for all as one."""
    because: str
    is_other_model: bool = False
    """Whether that is not the model of the spec's student, which the lone one has."""


class Agreement(Config):
    """Share of the test rows on which the student names the same class as another model, and the KL to it: of a teacher
    that knows some classes on the rows of these."""

    model: str
    role: Role
    agreement: Share
    kl: float
    """Mean KL(model ‖ student) at temperature 1, nats; both averaged over the student's seeds."""


class StepResult(Config):
    """Where the time went, step by step."""

    name: str
    kind: str
    outcome: Literal["computed", "continued", "reused"]
    seconds: float
    rows: int | None = None
    """Rows this step computed in this run."""
    rows_per_s: float | None = None


class Sample(Config):
    """One test row, and what each model believes of it."""

    row: int
    label: int
    pixels: tuple[tuple[int, ...], ...] | None = None
    """Grey values 0 to 255, if the input is an image."""
    probabilities: dict[str, tuple[float, ...]]


class DataSummary(Config):
    """The rows behind the figures."""

    source: str
    classes: tuple[str, ...]
    train_rows: int
    labelled_rows: int
    """Training rows with a label; the other training rows have none."""
    held_out_rows: int
    """Labelled rows that no model trains on: for calibration and for choosing the baseline's length."""
    test_rows: int


class ViewsSummary(Config):
    """How the training rows of a job in views were seen."""

    number: Annotated[int, Field(ge=1)]
    """Views that the student's training met, the rows as they are among them if they are one."""
    changes: tuple[str, ...]
    """What was done to rows, in this order, such as `crop` and `mixup`."""
    lone_in_views: tuple[int, ...] = ()
    """Seeds of which the baseline is the lone student in views; of the others it is the one on plain rows."""


class Summary(Config):
    """The question that a reader has: did it pay?"""

    ensemble_accuracy: Share | None
    """None without teachers."""
    baseline_accuracy: Share | None
    """Mean over seeds; None without a baseline."""
    baseline_std: float | None
    student_accuracy: Share
    student_std: float
    """Sample standard deviation over seeds; 0 for a single seed."""
    gain_stderr: float | None = None
    """Standard error of the student's gain over the baseline on the test rows, rows paired; None without a baseline."""
    gap_recovered: float | None
    """(student - baseline) / (ensemble - baseline); None where no ensemble is better than the baseline."""
    compression: float | None
    """Parameters of the teachers that the ensemble uses over those of the student; None without teachers."""
    teachers_lead: float | None
    """Accuracy of the ensemble minus that of the baseline on the held-out rows; None without either."""
    teachers_lead_stderr: float | None
    """Standard error of that difference, rows paired."""

    @property
    def clear_gain(self) -> float | None:
        """The student's accuracy minus the baseline's, 0 where the spread between seeds or the error of the test rows
        hides it; None without a baseline."""
        if self.baseline_accuracy is None:
            return None
        gain = self.student_accuracy - self.baseline_accuracy
        return gain if abs(gain) > max(self.student_std, self.baseline_std or 0.0, self.gain_stderr or 0.0) else 0.0


class Report(Config):
    """The whole record."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    name: str
    run: str
    created: str
    """UTC, ISO 8601."""
    command: str
    """Repeats the run."""
    store: str
    wall_s: float
    teacher_rows_computed: int
    """Rows that went through a teacher in this run; 0 when every label came from the store."""
    summary: Summary
    warnings: tuple[str, ...]
    data: DataSummary
    views: ViewsSummary | None = None
    """None where all saw the rows as they are."""
    models: tuple[ModelResult, ...]
    calibrations: tuple[CalibrationResult, ...]
    contributions: tuple[Contribution, ...] = ()
    agreements: tuple[Agreement, ...]
    cohorts: tuple[CohortResult, ...] = ()
    """One for each seed, where the student learned with others."""
    curves: tuple[Curve, ...]
    steps: tuple[StepResult, ...]
    samples: tuple[Sample, ...]
    environment: dict[str, str]
    """Versions and machine."""
    spec: str
    """The spec as resolved, YAML."""
