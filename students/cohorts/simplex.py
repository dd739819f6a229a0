"""The mixture of a few logits with the least cross-entropy, row by row: a small convex program.

A primal-dual interior-point method: Newton's steps on the conditions of optimality, relaxed by a share that falls, and
kept off the bounds. K logits, N rows, C classes.
"""

import torch

_SHRINK, _STAY_INSIDE = 0.1, 0.995
_GAP = 1e-15
"""Mean product of shares and their multipliers, nats: what is left to gain."""
_MOST_STEPS = 60


def best_mixture(logits_KNC: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return α, float64 `[K, N]`: not negative, 1 in sum, with the least CE(Σ_k α_k z_k, y) on each row.

    Where several mixtures are equally good, it is one from their midst.
    """
    logits_NKC = logits_KNC.detach().double().transpose(0, 1)
    own_NK1 = logits_NKC.gather(2, labels_N[:, None, None].expand(-1, logits_NKC.shape[1], 1))
    margins_NKC = logits_NKC - own_NK1
    shares_NK = torch.full_like(margins_NKC[:, :, 0], 1 / margins_NKC.shape[1])
    multipliers_NK = torch.ones_like(shares_NK)
    for _ in range(_MOST_STEPS):
        gap_N1 = (shares_NK * multipliers_NK).mean(dim=1, keepdim=True)
        goes_on_N1 = gap_N1 > _GAP
        if not bool(goes_on_N1.any()):
            break
        step_NK, slope_NK = _step(margins_NKC, shares_NK, multipliers_NK, _SHRINK * gap_N1)
        length_N1 = torch.minimum(_room(shares_NK, step_NK), _room(multipliers_NK, slope_NK))
        shares_NK = torch.where(goes_on_N1, shares_NK + length_N1 * step_NK, shares_NK)
        multipliers_NK = torch.where(goes_on_N1, multipliers_NK + length_N1 * slope_NK, multipliers_NK)
    return (shares_NK / shares_NK.sum(dim=1, keepdim=True)).T


def _step(
    margins_NKC: torch.Tensor, shares_NK: torch.Tensor, multipliers_NK: torch.Tensor, relaxed_N1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Newton's step for shares and multipliers; it leaves the sum of the shares as it is."""
    probs_N1C = (shares_NK[:, :, None] * margins_NKC).sum(dim=1, keepdim=True).softmax(dim=-1)
    slopes_NK = (probs_N1C * margins_NKC).sum(dim=-1)
    centred_NKC = margins_NKC - slopes_NK[:, :, None]
    curvature_NKK = (probs_N1C * centred_NKC) @ centred_NKC.transpose(1, 2)
    matrix_NKK = curvature_NKK + torch.diag_embed(multipliers_NK / shares_NK)
    sides_NK2 = torch.stack([relaxed_N1 / shares_NK - slopes_NK, torch.ones_like(shares_NK)], dim=-1)
    solved_NK, ones_NK = torch.linalg.solve(matrix_NKK, sides_NK2).unbind(dim=-1)
    price_N1 = solved_NK.sum(dim=1, keepdim=True) / ones_NK.sum(dim=1, keepdim=True)
    step_NK = solved_NK - price_N1 * ones_NK
    return step_NK, relaxed_N1 / shares_NK - multipliers_NK - multipliers_NK / shares_NK * step_NK


def _room(values_NK: torch.Tensor, step_NK: torch.Tensor) -> torch.Tensor:
    """Return the part of a step, at most all of it, that keeps the values above 0; `[N, 1]`."""
    shrinking = step_NK < 0
    room_NK = torch.where(shrinking, -values_NK / torch.where(shrinking, step_NK, -1.0), torch.inf)
    return (_STAY_INSIDE * room_NK.amin(dim=1, keepdim=True)).clamp(max=1.0)
