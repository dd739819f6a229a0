"""What a process asks of a node: what Ray is told of it, and what is refused before Ray sees it."""

import pytest
from pydantic import ValidationError

from cluster.resources import NodeConfig, ResourceConfig

ALL = {"cpu": 2, "gpu": 0.5, "custom": {"licence": 1.5}, "labels": {"ray.io/zone": "a-1"}, "accelerator": "A100"}


def test_ray_is_told_all_that_is_asked_and_nothing_else() -> None:
    assert ResourceConfig().ray_options == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert ResourceConfig.model_validate(ALL).ray_options == {
        "num_cpus": 2.0,
        "num_gpus": 0.5,
        "resources": {"licence": 1.5},
        "label_selector": {"ray.io/zone": "a-1"},
        "accelerator_type": "A100",
    }


def test_a_type_of_accelerator_is_a_sliver_of_a_resource_of_its_node() -> None:
    # What ray.util.accelerators documents, and `ScalingConfig(accelerator_type=…)` reserves.
    assert ResourceConfig.model_validate(ALL).amounts == {
        "CPU": 2.0,
        "GPU": 0.5,
        "licence": 1.5,
        "accelerator_type:A100": 0.001,
    }


def test_nothing_is_reserved_that_is_not_asked() -> None:
    assert dict(ResourceConfig(cpu=0.5).amounts) == {"CPU": 0.5}


def test_it_is_said_as_a_user_says_it() -> None:
    assert str(ResourceConfig()) == "1 CPU"
    expected = "2 CPU and 0.5 GPU, 1.5 licence, accelerator A100, label ray.io/zone=a-1"
    assert str(ResourceConfig.model_validate(ALL)) == expected
    assert NodeConfig().named == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"custom": {"CPU": 1}},
        {"custom": {"GPU": 1}},
        {"custom": {"memory": 1}},
        {"custom": {"node:10.0.0.1": 1}},
        {"custom": {"accelerator_type:A100": 1}},
        {"custom": {"licence": 0}},
        {"custom": {"": 1}},
        {"labels": {"zone": "!a"}},
        {"labels": {"zone": "in(a,b)"}},
        {"labels": {"zone": ""}},
        {"labels": {"a b": "c"}},
        {"accelerator": ""},
    ],
)
def test_what_means_something_else_to_ray_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NodeConfig.model_validate(fields)
