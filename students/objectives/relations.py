"""What relation-based terms have in common: outputs as vectors, their directions, and how alike they are.

Legend: N rows, D features.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def vectors(output: "torch.Tensor") -> "torch.Tensor":
    """Return an output `[N, ...]` as `[N, D]`, in float32 at least: relations are small differences of large sums."""
    import torch

    return output.flatten(start_dim=1).to(torch.promote_types(output.dtype, torch.float32))


def directions(values: "torch.Tensor") -> "torch.Tensor":
    """Return `values` divided by their length along the last axis; 0, without gradient, where there is no direction."""
    squares = values.square().sum(dim=-1, keepdim=True)
    # The inverse root of infinity is 0 and flat: what has no length moves nothing, instead of by one over an epsilon.
    return values * squares.masked_fill(squares == 0, float("inf")).rsqrt()


def cosines(vectors_ND: "torch.Tensor") -> "torch.Tensor":
    """Return the cosine of every two rows, `[N, N]`."""
    directions_ND = directions(vectors_ND)
    return directions_ND @ directions_ND.T
