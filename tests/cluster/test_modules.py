"""Building modules, moving their weights, and making inputs of columns."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from cluster.models import InputConfig, ModelConfig, ModelSourceError
from cluster.modules import (
    FactoryError,
    InputColumnError,
    InputShapeError,
    ModelShapeError,
    WeightsError,
    build_module,
    check_shapes,
    in_fast_layout,
    input_array,
    load_weights,
    num_parameters,
    save_weights,
    to_inputs,
)
from tests.fixtures.tiny import Convolved, Dropped, Linear, Normed, Tied

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 4)).astype(np.uint8)


@pytest.fixture
def written_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_module_is_built_by_its_factory_with_the_arguments() -> None:
    module = build_module(ModelConfig(factory="tests.fixtures.tiny:Dropped", arguments={"width": 7, "share": 0.25}))

    assert isinstance(module, Dropped)
    assert module[0].out_features == 7
    assert module[2].p == 0.25


def test_a_factory_may_be_inside_a_class(written_modules: Path) -> None:
    (written_modules / "zoo_of_models.py").write_text(
        "from torch import nn\nclass Zoo:\n    @staticmethod\n    def small():\n        return nn.Linear(2, 2)\n"
    )

    assert isinstance(build_module(ModelConfig(factory="zoo_of_models:Zoo.small")), nn.Linear)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("no_such_package:Model", "No module named 'no_such_package'"),
        ("tests.fixtures.no_such_module:Model", "No module named 'tests.fixtures.no_such_module'"),
        ("tests.fixtures.tiny:Missing", "has no attribute 'Missing'"),
        ("tests.fixtures.tiny:Linear.missing", "has no attribute 'missing'"),
    ],
)
def test_a_reference_to_nothing_is_named(factory: str, reason: str) -> None:
    with pytest.raises(ModelSourceError) as refusal:
        build_module(ModelConfig(factory=factory))

    assert str(refusal.value).startswith(f"{factory}: ")
    assert reason in str(refusal.value)
    assert "Expected package.module:factory" in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def model(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import no_such_dependency\n", "No module named 'no_such_dependency'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_error(
    written_modules: Path, source: str, reason: str
) -> None:
    (written_modules / "broken_models.py").write_text(source)

    with pytest.raises(ModelSourceError, match=r"^broken_models:model: ") as refusal:
        build_module(ModelConfig(factory="broken_models:model"))

    assert reason in str(refusal.value)


def test_a_call_that_fails_or_returns_no_module_is_named() -> None:
    with pytest.raises(FactoryError, match=r"tiny:Linear: TypeError: .*unexpected keyword argument 'depth'\. Expected"):
        build_module(ModelConfig(factory="tests.fixtures.tiny:Linear", arguments={"depth": 3}))
    with pytest.raises(FactoryError, match=r"builtins:dict: returned dict\. Expected a callable that returns a torch"):
        build_module(ModelConfig(factory="builtins:dict"))
    with pytest.raises(FactoryError, match=r"tiny:CLASSES: TypeError: 'tuple' object is not callable"):
        build_module(ModelConfig(factory="tests.fixtures.tiny:CLASSES"))


def test_a_module_that_fits_its_data_passes_and_is_left_in_its_mode() -> None:
    module = Normed()
    before = save_weights(module)

    for is_training in (True, False):
        module.train(is_training)
        check_shapes(module, torch.zeros(5, 4), num_classes=3, factory="tiny:Normed")
        assert module.training is is_training

    check_shapes(module, torch.zeros(1, 4), num_classes=3, factory="tiny:Normed")
    assert save_weights(module) == before


@pytest.mark.parametrize(
    ("inputs", "num_classes", "found"),
    [
        (torch.zeros(5, 4), 10, "outputs of shape [2, 3]; expected outputs of shape [rows, 10]"),
        (torch.zeros(5, 4, 4), 3, "outputs of shape [2, 4, 3]; expected outputs of shape [rows, 3]"),
        (torch.zeros(5, 7), 3, "mat1 and mat2 shapes cannot be multiplied (2x7 and 4x3); expected outputs"),
    ],
)
def test_a_module_that_does_not_fit_its_data_is_named_with_both(
    inputs: torch.Tensor, num_classes: int, found: str
) -> None:
    with pytest.raises(ModelShapeError) as refusal:
        check_shapes(Linear(), inputs, num_classes=num_classes, factory="tiny:Linear")

    assert str(refusal.value).startswith(f"tiny:Linear: for rows of shape {list(inputs.shape[1:])} found {found}")


@pytest.mark.parametrize("build", [Linear, Normed, lambda: in_fast_layout(Convolved()), Tied])
def test_weights_come_back_bit_for_bit(build: type[nn.Module]) -> None:
    module, other = build(), build()
    for tensor in module.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(17))

    load_weights(other, save_weights(module), where="here")

    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_saving_tied_weights_keeps_them_under_both_names_and_tied_in_the_module() -> None:
    module = Tied()

    saved = safetensors.torch.load(save_weights(module))

    assert set(saved) == {"first.weight", "second.weight"}
    assert torch.equal(saved["first.weight"], saved["second.weight"])
    assert module.first.weight is module.second.weight


def test_weights_of_another_module_are_refused_and_named() -> None:
    with pytest.raises(WeightsError, match=r"^here: Error\(s\) in loading state_dict for Dropped: Missing key"):
        load_weights(Dropped(), save_weights(Linear()), where="here")
    with pytest.raises(WeightsError, match=r"^here: not a safetensors file \("):
        load_weights(Linear(), b"\x80\x04.", where="here")
    assert WeightsError.exit_code == 5


def test_images_lie_in_channels_last_and_everything_else_as_it_was() -> None:
    convolved, linear = in_fast_layout(Convolved()), in_fast_layout(Linear())

    assert convolved[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert linear.weight.is_contiguous()


def test_parameters_are_counted_once() -> None:
    assert num_parameters(Linear()) == 4 * 3 + 3
    assert num_parameters(Tied()) == 9
    assert num_parameters(Normed()) == 4 + 4 + 15  # running means are no parameters


def test_the_only_column_beside_label_and_row_is_the_input() -> None:
    arrays = {"row": np.arange(3), "label": np.zeros(3), "image": IMAGES, "0.logits": np.zeros((3, 2))}

    assert input_array(arrays, InputConfig()) is IMAGES
    assert input_array(arrays, InputConfig(column="image")) is IMAGES


@pytest.mark.parametrize("column", [None, "label", "row", "0.logits", "audio"])
def test_a_column_that_is_no_input_or_not_the_only_one_has_to_be_named(column: str | None) -> None:
    arrays = {"row": np.arange(3), "label": np.zeros(3), "image": IMAGES, "text": IMAGES, "0.logits": np.zeros(3)}

    with pytest.raises(InputColumnError) as refusal:
        input_array(arrays, InputConfig(column=column))

    assert str(refusal.value) == f"inputs.column is {column}; the data set has image, text. Name one of them."


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float16", "float32"])
@pytest.mark.parametrize(
    "config",
    [
        InputConfig(),
        InputConfig(scale=0.125),
        InputConfig(mean=0.5, std=0.25),
        InputConfig(mean=1, std=2),
        InputConfig(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]),
        InputConfig(scale=2.0, mean=[0.1, 0.2, 0.3]),
        InputConfig(shape=(24,)),
        InputConfig(shape=(4, 6), mean=[1, 2, 3, 4], std=0.5),
    ],
)
def test_inputs_are_what_numpy_makes_of_the_column(dtype: str, config: InputConfig) -> None:
    column = IMAGES.astype(dtype)
    expected = column.astype(np.float64) * (config.scale or (1 / 255 if dtype == "uint8" else 1))
    expected = expected.reshape(5, *(config.shape or (3, 2, 4)))
    axes = (-1,) + (1,) * (expected.ndim - 2)
    expected = (expected - np.reshape(config.mean, axes)) / np.reshape(config.std, axes)

    inputs = to_inputs(column, config)

    assert inputs.dtype == torch.float32
    assert inputs.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_columns_that_may_not_be_written_to_are_copied_and_stay_as_they_are() -> None:
    column = np.ones((2, 3), np.float32)
    column.flags.writeable = False

    to_inputs(column, InputConfig()).fill_(5)

    assert (column == 1).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (InputConfig(shape=(3, 3)), r"inputs\.shape is \[3, 3\], which does not fit rows of shape \[3, 2, 4\]"),
        (InputConfig(mean=[0.1, 0.2]), r"inputs\.mean has 2 values, which does not fit rows of shape \[3, 2, 4\]"),
        (InputConfig(std=[0.1]), r"inputs\.std has 1 values, which"),
        (InputConfig(shape=(24,), mean=[0.1, 0.2, 0.3]), r"inputs\.mean has 3 values, which does not fit .* \[24\]"),
    ],
)
def test_numbers_that_do_not_fit_the_column_are_named(config: InputConfig, message: str) -> None:
    with pytest.raises(InputShapeError, match=message):
        to_inputs(IMAGES, config)
