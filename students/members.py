"""Members of a cohort that train on workers of their own: each is a training, and all of them together are one more.

The training of the cohort is never carried out by itself: it is done when all members are, and its record is that of
the best. So whatever asks for the student of a seed need not know that several were trained.
"""

from collections.abc import Sequence

from cluster.shards.records import publish_record, read_record
from cluster.storage.protocol import ObjectStore
from students.cohorts.codistillation import CodistillationCohort
from students.cohorts.method import FIRST
from students.rounds import clear_rounds
from students.task import MemberRecord, Membership, Peer, TrainedRecord, TrainingTask

_SEEDS = 2**31
"""A spec's seeds are below, so no two members of a job draw alike."""


def members_of(cohort: TrainingTask) -> tuple[TrainingTask, ...]:
    """Return the trainings of the members, the student first."""
    student = Peer(name=FIRST, model=cohort.model, model_source=cohort.model_source)
    return tuple(_member(cohort, number, peer) for number, peer in enumerate((student, *cohort.peers)))


def groups_of(tasks: Sequence[TrainingTask]) -> tuple[tuple[TrainingTask, ...], ...]:
    """Return what groups of workers may train at the same time, each in this order: one group does all, unless these
    are cohorts whose members exchange weights, and each place in them has a group of its own."""
    if isinstance(tasks[0].cohort, CodistillationCohort):
        return tuple(zip(*map(members_of, tasks), strict=True))
    return (tuple(tasks),)


def peers_of(member: TrainingTask) -> tuple[TrainingTask, ...]:
    """Return the trainings of all other members of its cohort; none for a training that belongs to none."""
    if member.membership is None:
        return ()
    everyone = members_of(member.membership.cohort)
    return tuple(task for number, task in enumerate(everyone) if number != member.membership.number)


def close_cohort(store: ObjectStore, member: TrainingTask) -> None:
    """Remove what members have left each other if all of them are trained, and publish the record of their cohort.

    Whoever is last does it, and whoever finds that an earlier attempt was killed before it could.
    """
    if member.membership is None:
        return
    cohort = member.membership.cohort
    everyone = members_of(cohort)
    if not all(store.exists(task.record_key) for task in everyone):
        return
    names = (FIRST, *(peer.name for peer in cohort.peers))
    records = [read_record(store, task.record_key, TrainedRecord) for task in everyone]
    for task in everyone:
        clear_rounds(store, task)  # before the record: nobody comes here again once it is there
    publish_record(store, cohort.record_key, _record(cohort, dict(zip(names, records, strict=True))))


def _member(cohort: TrainingTask, number: int, peer: Peer) -> TrainingTask:
    return cohort.model_copy(
        update={
            "name": f"{cohort.name}-{peer.name}",
            "model": peer.model,
            "model_source": peer.model_source,
            "cohort": None,
            "peers": (),
            "membership": Membership(cohort=cohort, number=number),
            "seed": cohort.seed + number * _SEEDS,
        }
    )


def _record(cohort: TrainingTask, records: dict[str, TrainedRecord]) -> TrainedRecord:
    """Return the record of the best member, in the name of the cohort."""
    best = max(records, key=lambda name: (records[name].points[-1].accuracy, -records[name].points[-1].nll))
    return records[best].model_copy(
        update={
            "identity": cohort.identity,
            "rows": sum(record.rows for record in records.values()),
            "seconds": max(record.seconds for record in records.values()),
            "waited_s": max(record.waited_s for record in records.values()),
            "exported": best,
            "members": tuple(
                MemberRecord(name=name, parameters=record.parameters, points=record.points)
                for name, record in records.items()
            ),
        }
    )
