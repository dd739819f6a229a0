"""What stands beside the student: teachers of which terms read what is not stored, and the others of its cohort."""

from collections.abc import Sequence

from cluster.models import ModelConfig, source_digest
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from students.cohorts.catalogue import CohortConfig
from students.objectives.catalogue import TermConfig
from students.spec import StudentConfig
from students.task import LiveTeacher, Peer, TrainedRecord, heads_read, modules_read
from teachers.spec import TeacherConfig


def reads_stored(objective: Sequence[TermConfig], teacher: TeacherConfig) -> bool:
    """Return whether terms read outputs that the teacher's labels hold."""
    return any(tap.teacher == teacher.name and tap.module in teacher.taps for tap in modules_read(objective))


def reads_live(objective: Sequence[TermConfig], teacher: TeacherConfig) -> bool:
    """Return whether they read other outputs, or weights."""
    outputs = (tap for tap in modules_read(objective) if tap.module not in teacher.taps)
    return any(tap.teacher == teacher.name for tap in (*outputs, *heads_read(objective)))


def live_teacher(teacher: TeacherConfig, identity: str, weights: StoredWeights | str | None) -> LiveTeacher:
    """Return what a worker needs to load a teacher; `weights` are given, or those of the training with this record."""
    assert teacher.model is not None, "a spec whose terms name modules of an .onnx file is refused"  # noqa: S101
    assert weights is not None, "a teacher is fitted or has weights"  # noqa: S101
    model = ModelConfig(factory=teacher.model, arguments=teacher.arguments, inputs=teacher.inputs)
    return LiveTeacher(name=teacher.name, identity=identity, model=model, weights=weights)


def peers_of(cohort: CohortConfig | None, student: StudentConfig) -> tuple[Peer, ...]:
    """Return the members besides the student; all read what the student reads."""
    return tuple(
        Peer(
            name=member.name,
            model=ModelConfig(
                factory=member.model or student.model,
                arguments=student.arguments if member.model is None else member.arguments,
                inputs=student.inputs,
            ),
            model_source=source_digest(member.model or student.model),
        )
        for member in (cohort.members if cohort else ())
    )


def loaded_beside(store: ObjectStore, teachers: Sequence[LiveTeacher]) -> str:
    """Say which teachers every worker loads beside the student, and how large their weights are; empty for none."""
    if not teachers:
        return ""
    return f"each worker loads {', '.join(f'{teacher.name} ({_size(store, teacher)})' for teacher in teachers)}"


def _size(store: ObjectStore, teacher: LiveTeacher) -> str:
    if isinstance(teacher.weights, StoredWeights):
        num_bytes = teacher.weights.num_bytes
    elif store.exists(teacher.weights):
        num_bytes = read_record(store, teacher.weights, TrainedRecord).num_bytes
    else:
        return "not trained yet"
    return f"{num_bytes / 2**20:,.1f} MiB of weights"
