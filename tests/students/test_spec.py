"""What a user may say of the workers of a training."""

import pytest
from pydantic import ValidationError

from orchestrator.load import parse_spec
from orchestrator.specfile.errors import SpecInvalidError
from students.spec import TrainConfig

JOB = """\
name: small
data: {read: {source: digits}}
teachers:
  - {name: wide, model: "models:Wide", fit: {epochs: 3}}
student: {model: "models:Small"}
"""


@pytest.mark.parametrize(
    ("said", "bounds", "shown"),
    [
        (1, (1, 1), "1 worker(s)"),
        (3, (3, 3), "3 worker(s)"),
        ([2, 8], (2, 8), "2 to 8 workers"),
        ([2, 2], (2, 2), "2 worker(s)"),
    ],
)
def test_a_number_of_workers_and_a_range_both_have_bounds(
    said: int | list[int], bounds: tuple[int, int], shown: str
) -> None:
    config = TrainConfig.model_validate({"workers": said})
    assert (config.min_workers, config.max_workers) == bounds
    assert config.num_workers_shown == shown
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("said", [0, [0, 2], [3, 2], [1], [1, 2, 3], "many"])
def test_what_is_no_number_and_no_range_is_refused(said: object) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"workers": said})


def test_the_largest_number_of_workers_needs_as_many_lanes() -> None:
    assert parse_spec(JOB, "job.yaml", ["train.workers=[1,8]"]).train.max_workers == 8
    with pytest.raises(SpecInvalidError, match=r"train.workers is 9 and train.order.lanes is 8"):
        parse_spec(JOB, "job.yaml", ["train.workers=[1,9]"])


def test_a_group_that_may_grow_is_not_placed_by_labels_which_ray_does_not_count() -> None:
    labelled = {"nodes": {"labels": {"zone": "a"}}}
    assert TrainConfig.model_validate({"workers": [2, 2], **labelled}).nodes.labels == {"zone": "a"}
    with pytest.raises(ValidationError, match=r"workers is \[1, 2\] and nodes.labels names 'zone'"):
        TrainConfig.model_validate({"workers": [1, 2], **labelled})


def test_a_worker_reserves_what_is_said_of_it_and_of_its_node() -> None:
    nodes = {"custom": {"licence": 1}, "labels": {"zone": "a"}, "accelerator": "L4"}
    config = TrainConfig.model_validate({"cpus_per_worker": 4, "gpus_per_worker": 1, "nodes": nodes})
    assert config.resources.amounts == {"CPU": 4, "GPU": 1, "licence": 1, "accelerator_type:L4": 0.001}
    assert config.resources.labels == {"zone": "a"}
