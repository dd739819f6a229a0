"""The job: one YAML file, read once, closed to unknown keys."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config import Config
from cluster.manifests.spec import KubernetesConfig, LauncherConfig
from cluster.resources import NodeKindConfig
from orchestrator.rules.blending import unblendable
from orchestrator.rules.cohorting import unteachable
from orchestrator.rules.rebirth import GenerationsConfig, unborn
from orchestrator.rules.self_taught import at_odds
from orchestrator.rules.serving import unserved
from orchestrator.rules.tapping import untappable
from orchestrator.rules.untaught import untaught
from orchestrator.rules.weighing import unweighable
from orchestrator.sources.spec import DataConfig
from students.cohorts.catalogue import CohortConfig
from students.objectives.catalogue import TermConfig
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from students.objectives.term import BatchTerm
from students.spec import BaselineConfig, FusionConfig, StudentConfig, TrainConfig
from teachers.spec import Name, TeacherConfig


class ClusterConfig(Config):
    """Where the work runs. Nothing here changes a result."""

    address: str | None = None
    """Address of a running Ray cluster, or `auto`; by default one is started on this machine, on loopback."""
    cpus: Annotated[int, Field(ge=1)] | None = None
    """Cores that a cluster started here may hand out; by default all of this machine."""
    labels_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Training that follows a growing label set gives up when nothing arrives for so long."""
    store_is_shared: bool = False
    """All nodes of the cluster see the same directory at the path of the store, as on a network file system."""
    may_grow_to: tuple[NodeKindConfig, ...] = ()
    """Nodes that the cluster's autoscaler may add: what fits only on these waits for them, and is not refused."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time that teachers, the workers of a training, or small trainings may take to find room and to start, at
    first and after all of them were lost."""
    kubernetes: KubernetesConfig | None = None
    """What `coffey submit --target rayjob` needs to know."""
    launcher: LauncherConfig | None = None
    """What `coffey submit --target ray-up` needs to know."""

    @property
    def is_another(self) -> bool:
        """Whether a cluster is described that is not this machine: one that is started for the job, or grows."""
        return bool(self.kubernetes or self.launcher or self.may_grow_to)


class JobSpec(Config):
    """A distillation job."""

    name: Name
    store: str = "./coffey-store"
    """A directory or s3://bucket/prefix."""
    data: DataConfig
    teachers: tuple[TeacherConfig, ...]
    """May be empty where something else teaches the student."""
    fusion: FusionConfig = FusionConfig()
    student: StudentConfig
    objective: Annotated[tuple[TermConfig, ...], Field(min_length=1)] = (
        KLTerm(weight=0.9),
        CrossEntropyTerm(weight=0.1),
    )
    cohort: CohortConfig | None = None
    """Several students that teach each other while they learn; by default one learns by itself."""
    generations: GenerationsConfig | None = None
    """Train the student's model several times, each time by what it said the time before; by default once."""
    train: TrainConfig = TrainConfig()
    baseline: BaselineConfig | None = BaselineConfig()
    """null: do not train the lone student."""
    export: tuple[Literal["safetensors", "onnx"], ...] = ("safetensors", "onnx")
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _somebody_teaches(self) -> "JobSpec":
        others = self.cohort is not None or self.generations is not None
        problems = () if self.teachers else tuple(untaught(self.fusion, self.objective, is_taught_otherwise=others))
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @model_validator(mode="after")
    def _teachers_are_listened_to(self) -> "JobSpec":
        if self.teachers and not any(term.needs_teachers for term in self.objective):
            raise ValueError("objective: no term reads the teachers; expected at least one that does, such as `kl`")
        if not any(term.reads - {"taps"} for term in self.objective):
            raise ValueError(
                "objective: every term reads modules alone, and the student's outputs are never trained; expected "
                "another term beside them, such as `kl` or `cross_entropy`"
            )
        if not any(term.reads - {"taps", "average"} for term in self.objective):
            raise ValueError(
                "objective: no term tells the student anything that its average does not know; expected another term "
                "beside `mean_teacher`, such as `kl` or `cross_entropy`"
            )
        return self

    @model_validator(mode="after")
    def _student_teaches_itself_one_way(self) -> "JobSpec":
        later = self.generations.objective if self.generations else ()
        problems = [
            *at_odds(self.objective, self.cohort, field="objective"),
            *at_odds(later, self.cohort, field="generations.objective"),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "JobSpec":
        teachers = [teacher.name for teacher in self.teachers]
        generations = self.generations.names if self.generations else ()
        names = [*teachers, self.student.name, "ensemble", "baseline", *generations]
        if taken := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"teachers: the name {taken[0]!r} is taken; every teacher, the student, `ensemble`, `baseline` and "
                "generations need their own"
            )
        if unknown := set(self.fusion.weights) - set(teachers):
            raise ValueError(
                f"fusion.weights: no teacher is called {sorted(unknown)[0]!r}; there are {', '.join(teachers)}"
            )
        return self

    @model_validator(mode="after")
    def _workers_have_lanes(self) -> "JobSpec":
        lanes = self.train.order.lanes
        if self.train.max_workers > lanes:
            raise ValueError(
                f"train.workers is {self.train.max_workers} and train.order.lanes is {lanes}; expected workers <= lanes"
            )
        sizes = {"train.batch_size": self.train.batch_size}
        sizes |= {} if self.baseline is None else {"baseline.batch_size": self.baseline.batch_size}
        for field, size in sizes.items():
            if size < 2 * lanes:
                raise ValueError(
                    f"{field} is {size} and train.order.lanes is {lanes}; expected a batch of at least two rows a lane"
                )
        return self

    @model_validator(mode="after")
    def _teachers_have_what_terms_name(self) -> "JobSpec":
        if problems := list(untappable(self.teachers, self.objective)):
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @model_validator(mode="after")
    def _batches_are_whole(self) -> "JobSpec":
        later = self.generations.objective if self.generations else ()
        of_batches = [term.term for term in (*self.objective, *later) if isinstance(term, BatchTerm)]
        if self.fusion.weighting.needs_whole_batches and self.train.accumulate > 1:
            raise ValueError(
                f"train.accumulate is {self.train.accumulate}, and the weighting `{self.fusion.weighting.method}` "
                "looks at a whole batch; expected 1"
            )
        if of_batches and self.train.accumulate > 1:
            raise ValueError(
                f"train.accumulate is {self.train.accumulate}, and the term `{of_batches[0]}` compares the rows of a "
                "whole batch; expected 1"
            )
        return self

    @model_validator(mode="after")
    def _generations_can_learn(self) -> "JobSpec":
        if self.generations and (problems := list(unborn(self.generations, self.cohort))):
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @model_validator(mode="after")
    def _teachers_can_be_weighed(self) -> "JobSpec":
        names = [teacher.name for teacher in self.teachers]
        if problems := list(unweighable(names, self.fusion, self.objective)):
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @model_validator(mode="after")
    def _rows_can_be_blended(self) -> "JobSpec":
        terms = (*self.objective, *(self.generations.objective if self.generations else ()))
        if problems := list(unblendable(self.data.views, self.fusion, terms, self.cohort, epochs=self.train.epochs)):
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @model_validator(mode="after")
    def _a_cohort_can_learn(self) -> "JobSpec":
        taken = [*(teacher.name for teacher in self.teachers), self.student.name, "ensemble", "baseline"]
        if problems := list(unteachable(self.cohort, self.objective, self.train, taken)):
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _labels_serve_the_objective(self) -> "JobSpec":
        if problems := list(unserved(self.teachers, self.fusion, self.objective)):
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @model_validator(mode="after")
    def _trainings_are_distinct(self) -> "JobSpec":
        if len(set(self.train.seeds)) < len(self.train.seeds):
            raise ValueError(f"train.seeds: {self.train.seeds} holds a seed twice")
        lengths = self.baseline.epochs if self.baseline else ()
        if len(set(lengths)) < len(lengths):
            raise ValueError(f"baseline.epochs: {lengths} holds a length twice")
        return self
