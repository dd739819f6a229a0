"""What is kept of a module's output, against numpy and against torch's own pooling."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cluster.shards.codecs.spec import TapConfig
from cluster.shards.taps import reduced_shape, signs
from teachers.reduction import reduced

MAPS = torch.randn(3, 8, 5, 7, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))


def test_an_average_is_the_mean_over_all_axes_but_rows_and_channels() -> None:
    average = TapConfig(pool=1)

    assert reduced(average, MAPS).numpy() == pytest.approx(MAPS.numpy().mean(axis=(2, 3)), abs=1e-6)
    assert reduced(average, TOKENS).numpy() == pytest.approx(TOKENS.numpy().mean(axis=1), abs=1e-6)
    assert torch.equal(reduced(average, VECTORS), VECTORS)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_averages_to_a_size_are_those_of_adaptive_pooling(size: int) -> None:
    config = TapConfig(pool=size)

    assert torch.allclose(reduced(config, MAPS), F.adaptive_avg_pool2d(MAPS, size), atol=1e-6)
    expected = F.adaptive_avg_pool1d(TOKENS.transpose(1, 2), size).transpose(1, 2)
    assert torch.allclose(reduced(config, TOKENS), expected, atol=1e-6)


def test_a_projection_mixes_channels_and_leaves_positions_where_they_are() -> None:
    matrix, config = signs(8, 4).astype(np.float64), TapConfig(project=4)

    for output, formula in ((MAPS, "nchw,cd->ndhw"), (TOKENS, "nlc,cd->nld"), (VECTORS, "nc,cd->nd")):
        expected = np.einsum(formula, output.double().numpy(), matrix)
        assert reduced(config, output).numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("output", [MAPS, TOKENS, VECTORS])
@pytest.mark.parametrize("options", [{}, {"project": 3}, {"pool": 1}, {"pool": 2}])
def test_shapes_are_those_that_were_planned(output: torch.Tensor, options: dict[str, object]) -> None:
    config = TapConfig.model_validate(options)

    assert tuple(reduced(config, output).shape[1:]) == reduced_shape(config, tuple(output.shape[1:]), field="taps.a")
