"""Whether the modules that terms name are of teachers that have modules; which they have, the plan finds out."""

import difflib
from collections.abc import Iterator, Sequence

from students.objectives.catalogue import TermConfig
from teachers.spec import TeacherConfig


def untappable(teachers: Sequence[TeacherConfig], objective: Sequence[TermConfig]) -> Iterator[str]:
    """Yield what terms name that no teacher can give."""
    by_name = {teacher.name: teacher for teacher in teachers}
    for term in objective:
        for tap in (*term.teacher_modules, *term.teacher_heads):
            if tap.teacher not in by_name:
                near = difflib.get_close_matches(tap.teacher, by_name, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                yield (
                    f"objective: the term `{term.term}` names the teacher {tap.teacher!r}{hint}, and there are "
                    f"{', '.join(by_name)}"
                )
            elif by_name[tap.teacher].backend == "onnx":
                yield (
                    f"objective: the term `{term.term}` names the module {tap.module!r} of the teacher {tap.teacher}, "
                    "which is an .onnx file and has none; expected a teacher with `model`"
                )
