"""The learning rate of a step, against torch's own schedulers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler

from cluster.optimizers import OptimizerConfig, learning_rate

PEAK = 0.3
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "constant": lambda optimizer, steps: ConstantLR(optimizer, factor=1.0, total_iters=steps),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
    "linear": lambda optimizer, steps: LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps),
}


def torch_rates(schedule: str, num_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = SCHEDULERS[schedule](optimizer, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return rates


def rates(config: OptimizerConfig, num_steps: int) -> list[float]:
    return [learning_rate(config, step=step, num_steps=num_steps) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_without_warmup_the_rates_are_those_of_torch(schedule: str, num_steps: int) -> None:
    config = OptimizerConfig.model_validate({"lr": PEAK, "schedule": schedule})

    assert rates(config, num_steps) == pytest.approx(torch_rates(schedule, num_steps), rel=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_after_the_warmup_the_schedule_runs_over_the_steps_that_are_left(schedule: str) -> None:
    config = OptimizerConfig.model_validate({"lr": PEAK, "schedule": schedule, "warmup": 0.25})

    warm, scheduled = rates(config, 40)[:10], rates(config, 40)[10:]

    assert warm == pytest.approx([PEAK * (step + 1) / 10 for step in range(10)])
    assert scheduled == pytest.approx(torch_rates(schedule, 30), rel=1e-6)


@given(
    schedule=st.sampled_from(sorted(SCHEDULERS)),
    warmup=st.floats(0, 0.999),
    num_steps=st.integers(1, 300),
)
@settings(deadline=None)
def test_every_step_learns_and_none_exceeds_the_peak(schedule: str, warmup: float, num_steps: int) -> None:
    config = OptimizerConfig.model_validate({"lr": PEAK, "schedule": schedule, "warmup": warmup})

    assert all(0 < rate <= PEAK * (1 + 1e-12) for rate in rates(config, num_steps))
    assert max(rates(config, num_steps)) == pytest.approx(PEAK)
