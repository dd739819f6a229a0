"""Ingest by Ray Data: the bytes of the direct path, and the errors of its tasks as they were raised."""

from functools import partial
from pathlib import Path

import pytest

from cluster.session import ray_session
from orchestrator.sources.errors import SourceMissingError
from orchestrator.sources.gather import read_partition
from orchestrator.sources.partitions import Partition, find_layout
from orchestrator.sources.read import partitioned
from tests.fixtures import exports
from tests.fixtures.ingested import ingested, job_of, objects, spoil
from tests.fixtures.ray_head import RayHead

pytestmark = pytest.mark.ray


def test_a_large_source_goes_through_the_cluster_and_gives_every_byte_of_the_direct_path(
    tmp_path: Path, ray_head: RayHead
) -> None:
    read = exports.write_csv(tmp_path, exports.digits())
    spoil(tmp_path)
    expected = objects(ingested(job_of(read, tmp_path / "here", max_bad_fraction=0.2)))
    job = job_of(read, tmp_path / "there", address=ray_head.address, max_bad_fraction=0.2, in_memory_bytes=0)
    assert objects(ingested(job)) == expected


def test_what_a_task_raises_arrives_as_it_was_raised(tmp_path: Path, ray_head: RayHead) -> None:
    from orchestrator.steps.ray_data import RayData

    config = partitioned(exports.config(exports.write_csv(tmp_path, exports.digits())))
    assert config is not None
    look = partial(read_partition, config, layout=find_layout(config, exports.CLASSES), with_columns=False)
    with ray_session(ray_head.address), pytest.raises(SourceMissingError, match=r"/nowhere\.csv: No such file"):
        list(RayData().map(look, [Partition("train", ("/nowhere.csv",))]))
