"""Of which teachers terms read outputs that are stored, and which have to stand beside the student for them."""

from collections.abc import Sequence

from cluster.models import ModelConfig
from cluster.weights import StoredWeights
from students.objectives.catalogue import TermConfig
from students.task import LiveTeacher, heads_read, modules_read
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
