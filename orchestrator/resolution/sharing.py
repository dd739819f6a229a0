"""Whether the members of a cohort can share what they are told to, found out before any work.

Only jobs whose members share modules come here, since it imports torch and the models, and runs them on rows of zeros.
"""

from cluster.models import ModelConfig
from orchestrator.resolution.beside import peers_of
from orchestrator.sources.read import source_columns
from orchestrator.spec import JobSpec
from students.cohorts.method import OnlineMethod


def check_sharing(spec: JobSpec, *, num_classes: int) -> None:
    """Build all members, and run them.

    Raises:
        ModuleMissingError: a member has no such module.
        NotSharedError: members cannot have it in common.
        ModelSourceError, FactoryError, ModelShapeError: a member cannot be built, or does not fit the data.
    """
    if not isinstance(spec.cohort, OnlineMethod) or not spec.cohort.shared_modules:
        return
    from cluster.modules import build_module, check_shapes, input_array, to_inputs
    from cluster.tapping import blank_rows
    from students.cohorts.sharing import Sharing

    student = ModelConfig(factory=spec.student.model, arguments=spec.student.arguments, inputs=spec.student.inputs)
    models = [student, *(peer.model for peer in peers_of(spec.cohort, spec.student))]
    columns = source_columns(spec.data)
    inputs = to_inputs(input_array(blank_rows(columns), student.inputs), student.inputs)
    modules = [build_module(model) for model in models]
    for model, module in zip(models, modules, strict=True):
        check_shapes(module, inputs, num_classes=num_classes, factory=model.factory)
    Sharing(modules, spec.cohort.shared_modules).check(modules, inputs)
