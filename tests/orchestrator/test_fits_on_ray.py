"""Small trainings in Ray tasks that find no room: they end with what is missing, and not never."""

import pickle
from pathlib import Path

import pytest

from cluster.errors import TrainingError
from cluster.session import ray_session
from cluster.storage.open import open_store
from orchestrator.resolution.resolve import resolve
from orchestrator.steps.fit import fit
from orchestrator.steps.ingest import ingest
from students.alone import TrainingsLateError
from tests.fixtures.jobs import job_spec, new_context, write_sources
from tests.fixtures.ray_head import RayHead


@pytest.mark.ray
def test_trainings_that_find_no_room_are_named_with_what_they_need(tmp_path: Path, ray_head: RayHead) -> None:
    write_sources(tmp_path)
    crowded = ("teachers.fitted.resources={cpu: 64}", "train.nodes={custom: {licence: 1}}")
    job = resolve(job_spec(tmp_path, *crowded, "cluster.start_timeout_s=0.5", f"cluster.address={ray_head.address}"))
    context = new_context(job, open_store(job.spec.store))
    ingest(context)

    with ray_session(ray_head.address), pytest.raises(TrainingsLateError) as late:
        fit(context)

    assert late.value.waiting == ("fit:fitted (needs 64 CPU)", "baseline (needs 1 CPU, 1 licence)")
    assert isinstance(late.value, TrainingError)
    assert str(pickle.loads(pickle.dumps(late.value))) == str(late.value)
    assert "cluster.start_timeout_s" in str(late.value)
