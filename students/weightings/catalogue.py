"""All weightings that a fusion may have: the one list by which a spec and `coffey techniques` find them."""

from typing import Annotated, get_args

from pydantic import Field

from students.weightings.confidence import ConfidenceWeighting
from students.weightings.entropy import EntropyWeighting
from students.weightings.gate import GateWeighting
from students.weightings.gradient import GradientWeighting
from students.weightings.routing import RoutingWeighting
from students.weightings.static import StaticWeighting
from students.weightings.weighting import Weighting

WeightingConfig = Annotated[
    ConfidenceWeighting | EntropyWeighting | GateWeighting | GradientWeighting | RoutingWeighting | StaticWeighting,
    Field(discriminator="method"),
]
"""How the teachers' shares are found, told apart by its `method`."""

WEIGHTINGS: tuple[type[Weighting], ...] = get_args(get_args(WeightingConfig)[0])
