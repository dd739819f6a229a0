"""Outputs caught inside a model: they are what its parts give by themselves, and what cannot be caught is refused."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from cluster.errors import SpecError
from cluster.shards.schema import Column
from cluster.tapping import (
    ModuleMissingError,
    NoHeadError,
    Tapped,
    UntappableError,
    blank_rows,
    parameters_of_head,
    shapes_of_taps,
)

X = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32))


def convolved() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
    return nn.Sequential(
        OrderedDict(stem=first, pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten(), head=nn.Linear(16, 3))
    )


class Odd(nn.Module):
    """A model whose modules return other things than one tensor of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(6, 4, batch_first=True)
        self.table, self.counted, self.idle = Returns("table"), Returns("count"), nn.Linear(1, 1)
        self.summed = Returns("sum")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.table(inputs), self.counted(inputs), self.summed(inputs)
        states: torch.Tensor = self.recurrent(inputs.flatten(1, 2))[0]
        return states[:, -1]


class Returns(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, inputs: torch.Tensor) -> object:
        return {"table": {"x": inputs}, "count": inputs.int(), "sum": inputs.sum(dim=0)}[self.kind]


def test_taps_are_what_the_parts_of_a_model_give_though_the_next_one_works_in_place() -> None:
    model = convolved()
    tapped = Tapped(model, ["stem.0", "pool", "stem.0"], name="student")

    output, taps = tapped(X)

    before = torch.nn.functional.conv2d(X, model.stem[0].weight, model.stem[0].bias, padding=1)
    assert before.min() < 0
    assert torch.equal(taps["stem.0"], before)
    assert torch.equal(taps["pool"], torch.nn.functional.adaptive_avg_pool2d(before.relu(), 2))
    assert torch.equal(output, convolved()(X))
    assert list(taps) == ["stem.0", "pool"]


def test_gradients_flow_through_taps_to_what_lies_before_them_alone() -> None:
    model = convolved()

    Tapped(model, ["pool"], name="student")(X)[1]["pool"].sum().backward()

    assert model.stem[0].weight.grad is not None
    assert model.head.weight.grad is None


def test_a_compiled_model_gives_the_same_taps_and_gradients() -> None:
    plain, traced = convolved(), convolved()
    compiled = torch.compile(Tapped(traced, ["stem.0", "pool"], name="student"), backend="aot_eager", fullgraph=True)

    found = [Tapped(plain, ["stem.0", "pool"], name="student")(X), compiled(X)]
    for output, taps in found:
        (output.sum() + taps["stem.0"].square().sum() + taps["pool"].sum()).backward()

    for name, tap in found[0][1].items():
        assert torch.allclose(found[1][1][name], tap, atol=1e-6)
    for one, other in zip(plain.parameters(), traced.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-4)


def test_taps_are_float32_though_the_model_runs_in_half_precision() -> None:
    tapped = Tapped(convolved(), ["head"], name="student")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, taps = tapped(X)

    assert (output.dtype, taps["head"].dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(taps["head"], output.float())


def test_a_model_that_was_scored_by_itself_leaves_nothing_behind() -> None:
    model = convolved()
    names, tapped = list(model.state_dict()), Tapped(model, ["pool"], name="student")
    with torch.inference_mode():
        model(X[:2])

    _, taps = tapped(X)

    assert len(taps["pool"]) == len(X)
    assert list(model.state_dict()) == names


def test_shapes_are_those_of_a_row_and_finding_them_out_changes_nothing() -> None:
    model = nn.Sequential(convolved(), nn.BatchNorm1d(3))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tapped = Tapped(model, ["0.stem", "1"], name="student")

    assert shapes_of_taps(tapped, X) == {"0.stem": (4, 6, 6), "1": (3,)}

    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_of_a_tuple_the_first_tensor_is_taken() -> None:
    model = Odd()

    _, taps = Tapped(model, ["recurrent"], name="student")(X)

    assert torch.equal(taps["recurrent"], model.recurrent(X.flatten(1, 2))[0])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("table", "returns dict"),
        ("counted", r"returns torch\.int32"),
        ("idle", "is not called by the model"),
        ("summed", r"returns \[3, 6, 6\] for 5 rows"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(path: str, found: str) -> None:
    with pytest.raises(UntappableError, match=f"the student: the module '{path}' {found}; expected one whose output"):
        shapes_of_taps(Tapped(Odd(), [path], name="the student"), X)


def test_a_module_that_is_not_there_is_refused_and_the_nearest_are_named() -> None:
    with pytest.raises(ModuleMissingError, match=r"wide has no module 'stem\.9'; the nearest are stem\.\d") as it:
        Tapped(convolved(), ["stem.9"], name="teacher wide")
    assert isinstance(it.value, SpecError)
    assert it.value.exit_code == 2

    with pytest.raises(ModuleMissingError, match="none is called alike"):
        Tapped(convolved(), ["zzzzzzzz"], name="teacher wide")


def test_a_head_is_the_weight_and_the_bias_of_a_linear_layer() -> None:
    model = nn.Sequential(convolved(), nn.Linear(3, 2, bias=False))

    weight, bias = parameters_of_head(model, "0.head", name="teacher wide")
    assert torch.equal(weight, model[0].head.weight)
    assert torch.equal(bias, model[0].head.bias)
    assert not weight.requires_grad
    assert parameters_of_head(model, "1", name="teacher wide")[1].tolist() == [0.0, 0.0]
    with pytest.raises(NoHeadError, match=r"teacher wide: the head '0\.pool' is a AdaptiveAvgPool2d; expected"):
        parameters_of_head(model, "0.pool", name="teacher wide")


def test_blank_rows_have_the_columns_of_a_data_set() -> None:
    rows = blank_rows([Column(name="image", dtype="uint8", shape=(2, 2)), Column(name="label", dtype="int32")])

    assert {name: (array.dtype.name, array.shape) for name, array in rows.items()} == {
        "image": ("uint8", (2, 2, 2)),
        "label": ("int32", (2,)),
    }


def test_a_copy_of_the_model_computes_the_same_with_weights_of_its_own_and_nobody_catches_its_outputs() -> None:
    model = convolved().eval()
    calls: list[nn.Module] = []
    model.head.register_forward_hook(lambda module, *_: calls.append(module))
    tapped = Tapped(model, ["pool"], name="the student")

    copied = tapped.copy_of_model()

    assert torch.equal(copied(X), model(X))
    assert len(calls) == 2  # hooks of the model itself are copied with it
    assert not any(it is other for it in copied.parameters() for other in model.parameters())
    _, taps = tapped(X)
    assert list(taps) == ["pool"]
    assert tapped._seen == {}
    copied(X)
    assert tapped._seen == {}
