"""A cohort in one worker group: members that learn from the same batches, and from each other.

Legend: K members, N rows, C classes.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from cluster.models import ModelConfig
from cluster.modules import num_parameters
from cluster.tapping import Tapped
from students.cohorts.fused import Fused, mean_log_probs
from students.cohorts.method import FIRST, FUSED, Discussion, OnlineMethod
from students.cohorts.sharing import Sharing
from students.group import fold_seed
from students.held_out import HeldOut
from students.learner import Learner, Learnt, outcome
from students.objectives.objective import Batch, Objective
from students.task import EpochPoint, MemberPoint, MemberRecord, TrainingTask


def beginnings(task: TrainingTask) -> list[tuple[ModelConfig, int]]:
    """Return model and seed of every student that a worker group trains: one, or the members of a cohort."""
    peers = task.peers if isinstance(task.cohort, OnlineMethod) else ()
    later = [(peer.model, fold_seed(task.seed, place)) for place, peer in enumerate(peers, start=1)]
    return [(task.model, task.seed), *later]


def learner_of(
    task: TrainingTask,
    modules: Sequence[nn.Module],
    objective_of: Callable[[Tapped, int], Objective],
    *,
    sample: torch.Tensor,
    labelled_share: float,
    is_compiled: bool,
) -> "Learner | CohortLearner":
    """Return what learns: the one student, or the cohort of which these are the members.

    `objective_of` makes the objective of a student from its seed; `sample` are inputs of a few rows.

    Raises:
        ModuleMissingError: a module that terms read, or members share, is not there.
        NotSharedError: members cannot share what they are told to.
    """
    is_half, paths = task.precision == "bfloat16", [path for term in task.objective for path in term.student_modules]
    method = task.cohort if isinstance(task.cohort, OnlineMethod) else None
    sharing = Sharing(modules, method.shared_modules if method else ())
    students = [Tapped(module, paths, name="student") for module in modules]
    objectives = [objective_of(student, seed) for student, (_, seed) in zip(students, beginnings(task), strict=True)]
    for student in students if is_compiled else ():
        student.compile()
    if method is None:
        taught_by_peers = task.membership.method if task.membership else None
        return Learner(students[0], objectives[0], taught_by_peers, is_half=is_half)
    num_features = sharing.check(modules, sample)
    state = method.build(num_members=len(modules), num_features=num_features)
    names = (FIRST, *(peer.name for peer in task.peers))
    return CohortLearner(
        method,
        dict(zip(names, students, strict=True)),
        objectives,
        sharing,
        state,
        labelled_share=labelled_share,
        is_half=is_half,
    )


class CohortLearner(nn.Module):
    """From a batch to the loss of all members, which is the sum of theirs and of what they learn of each other."""

    def __init__(
        self,
        method: OnlineMethod,
        students: dict[str, Tapped],
        objectives: Sequence[Objective],
        sharing: Sharing,
        state: nn.Module | None,
        *,
        labelled_share: float,
        is_half: bool,
    ) -> None:
        """`students` by name; each has its own objective. `state` is what the method learns."""
        super().__init__()
        self._method, self._names, self._sharing, self._is_half = method, tuple(students), sharing, is_half
        self._discussion = partial(Discussion, labelled_share=labelled_share, state=state)
        self._learn_of = partial(method.learn_of, state=state)
        self._pupils = tuple(zip(students.values(), objectives, strict=True))
        self.students = nn.ModuleList(students.values())
        # As of one student: what objectives learn, and the method, is saved beside the students.
        self.objective = nn.ModuleList([*objectives, state or nn.Module()])

    @property
    def module(self) -> Fused:
        """The members: what is saved and resumed."""
        return Fused([student.model for student, _ in self._pupils], self._sharing)

    @property
    def published(self) -> Fused:
        """The members: what is scored."""
        return self.module

    def follow(self, *, step: int) -> None:
        """Do nothing: a spec whose members have averages of their weights is refused."""

    def forward(self, batch: Batch, *, global_rows: int, progress: float) -> torch.Tensor:
        """Return this worker's contribution to the loss of a global batch; a scalar."""
        logits, losses = [], []
        with self._sharing.once():
            for student, objective in self._pupils:
                own_NC, loss = outcome(
                    student, objective, batch, global_rows=global_rows, progress=progress, is_half=self._is_half
                )
                logits.append(own_NC)
                losses.append(loss)
            features_NF = self._sharing.features_NF()
        discussion = self._discussion(torch.stack(logits), batch.labels_N, progress=progress, features_NF=features_NF)
        return torch.stack(losses).sum() + self._method.rows(discussion).sum() / global_rows

    def point(self, held_out: HeldOut, *, epoch: int, loss: float, check: Callable[[float], None]) -> EpochPoint:
        """Return how an epoch went: of each member, and of what would be exported now; the loss is their mean.

        `check` refuses an NLL that is no number. The method learns how the members err.
        """
        count, module = len(self._names), self.module.eval()

        def judged(inputs: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
            logits_KNC = module.each(inputs).to("cpu", torch.float64)
            with_fused = torch.cat([logits_KNC, mean_log_probs(logits_KNC)[None]])
            hits = (with_fused.argmax(dim=-1) == labels_N).sum(dim=1).double()
            nlls = torch.stack([F.cross_entropy(logits_NC, labels_N, reduction="sum") for logits_NC in with_fused])
            wrong_KD = (logits_KNC.softmax(dim=-1) - F.one_hot(labels_N, logits_KNC.shape[-1])).flatten(start_dim=1)
            return torch.cat([hits, nlls, (wrong_KD @ wrong_KD.T).flatten()])

        means = held_out.means(judged, size=2 * (count + 1) + count**2)
        accuracies, nlls, errors = means.split([count + 1, count + 1, count**2])
        check(float(nlls.sum()))
        self._learn_of(errors.reshape(count, count))
        members = tuple(
            MemberPoint(accuracy=accuracy, nll=round(nll, 9))
            for accuracy, nll in zip(accuracies.tolist(), nlls.tolist(), strict=True)
        )
        shown = members[-1] if self._method.export == FUSED else max(members[:-1], key=_merit)
        return EpochPoint(
            epoch=epoch, loss=round(loss / count, 9), accuracy=shown.accuracy, nll=shown.nll, members=members[:-1]
        )

    def learnt(self, points: tuple[EpochPoint, ...]) -> Learnt:
        """Return the member that did best at the end, or all as one, with how every member went."""
        members = tuple(self._record(place, points) for place in range(len(self._names)))
        if self._method.export == FUSED:
            shown = tuple(point.model_copy(update={"members": ()}) for point in points)
            return Learnt(self.module, shown, FUSED, members)
        best = max(members, key=lambda member: _merit(member.points[-1]))
        place = self._names.index(best.name)
        return Learnt(self.module.members[place], best.points, best.name, members)

    def _record(self, place: int, points: tuple[EpochPoint, ...]) -> MemberRecord:
        own = tuple(
            EpochPoint(epoch=point.epoch, loss=point.loss, **point.members[place].model_dump()) for point in points
        )
        module = self.module.members[place]
        return MemberRecord(name=self._names[place], parameters=num_parameters(module), points=own)


def _merit(point: EpochPoint | MemberPoint) -> tuple[float, float]:
    return point.accuracy, -point.nll
