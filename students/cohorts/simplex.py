"""The mixture of a few logits with the least cross-entropy, row by row: a small convex program.

A primal-dual interior-point method: Newton's steps on the conditions of optimality, relaxed by a number that falls, and
halved until they come nearer to being met. K logits, N rows, C classes.
"""

import torch

_SHRINK, _STAY_INSIDE = 0.1, 0.995
_LEAST_RELAXED = 1e-17
"""Nats; rounding is larger."""
_GAIN = 1e-14
"""What another mixture may still gain: nats, and nats for each nat by which a row's logits differ at most."""
_MOST_STEPS, _MOST_HALVINGS = 50, 12


def best_mixture(logits_KNC: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return α, float64 `[K, N]`: not negative, 1 in sum, with the least CE(Σ_k α_k z_k, y) on each row.

    Where several mixtures are equally good, it is one from their midst.
    """
    logits_NKC = logits_KNC.detach().double().transpose(0, 1)
    own_NK1 = logits_NKC.gather(2, labels_N[:, None, None].expand(-1, logits_NKC.shape[1], 1))
    margins_NKC = logits_NKC - own_NK1
    size_N1 = margins_NKC.abs().amax(dim=(1, 2))[:, None]
    shares_NK = torch.full_like(margins_NKC[:, :, 0], 1 / margins_NKC.shape[1])
    slopes_NK = _slopes(margins_NKC, shares_NK)
    # With these the one condition is met, and the other as well as it can be from here.
    multipliers_NK = slopes_NK - slopes_NK.amin(dim=1, keepdim=True) + 0.1 * size_N1 + _LEAST_RELAXED
    for _ in range(_MOST_STEPS):
        gain_N1 = (shares_NK * slopes_NK).sum(dim=1, keepdim=True) - slopes_NK.amin(dim=1, keepdim=True)
        goes_on_N1 = gain_N1 > _GAIN * (1 + size_N1)
        if not bool(goes_on_N1.any()):
            break
        relaxed_N1 = (_SHRINK * (shares_NK * multipliers_NK).mean(dim=1, keepdim=True)).clamp(min=_LEAST_RELAXED)
        now = shares_NK, multipliers_NK
        shares_NK, multipliers_NK = (
            torch.where(goes_on_N1, new, old)
            for new, old in zip(_moved(margins_NKC, *now, relaxed_N1), now, strict=True)
        )
        slopes_NK = _slopes(margins_NKC, shares_NK)
    return shares_NK.T


def _moved(
    margins_NKC: torch.Tensor, shares_NK: torch.Tensor, multipliers_NK: torch.Tensor, relaxed_N1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return shares and multipliers after one step; those of a row that no step betters stay."""
    step_NK, change_NK = _newton(margins_NKC, shares_NK, multipliers_NK, relaxed_N1)
    length_N1 = torch.minimum(_room(shares_NK, step_NK), _room(multipliers_NK, change_NK))
    before_N1 = _unmet(margins_NKC, shares_NK, multipliers_NK, relaxed_N1)
    found_NK, other_NK = shares_NK, multipliers_NK
    is_left_N1 = step_NK.isfinite().all(dim=1, keepdim=True) & change_NK.isfinite().all(dim=1, keepdim=True)
    for _ in range(_MOST_HALVINGS):
        moved_NK, changed_NK = shares_NK + length_N1 * step_NK, multipliers_NK + length_N1 * change_NK
        # Where shares are as good as 0, rounding in the steps would add up to another sum.
        moved_NK = moved_NK / moved_NK.sum(dim=1, keepdim=True)
        after_N1 = _unmet(margins_NKC, moved_NK, changed_NK, relaxed_N1)
        is_nearer_N1 = is_left_N1 & (after_N1 <= (1 - 0.01 * length_N1) * before_N1)
        found_NK, other_NK = found_NK.where(~is_nearer_N1, moved_NK), other_NK.where(~is_nearer_N1, changed_NK)
        is_left_N1 = is_left_N1 & ~is_nearer_N1
        if not bool(is_left_N1.any()):
            break
        length_N1 = torch.where(is_left_N1, length_N1 / 2, length_N1)
    return found_NK, other_NK


def _newton(
    margins_NKC: torch.Tensor, shares_NK: torch.Tensor, multipliers_NK: torch.Tensor, relaxed_N1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Newton's step for shares and multipliers; it leaves the sum of the shares as it is."""
    probs_N1C = (shares_NK[:, :, None] * margins_NKC).sum(dim=1, keepdim=True).softmax(dim=-1)
    slopes_NK = (probs_N1C * margins_NKC).sum(dim=-1)
    centred_NKC = margins_NKC - slopes_NK[:, :, None]
    curvature_NKK = (probs_N1C * centred_NKC) @ centred_NKC.transpose(1, 2)
    matrix_NKK = curvature_NKK + torch.diag_embed(multipliers_NK / shares_NK)
    sides_NK2 = torch.stack([relaxed_N1 / shares_NK - slopes_NK, torch.ones_like(shares_NK)], dim=-1)
    solved_NK, ones_NK = torch.linalg.solve_ex(matrix_NKK, sides_NK2).result.unbind(dim=-1)
    price_N1 = solved_NK.sum(dim=1, keepdim=True) / ones_NK.sum(dim=1, keepdim=True)
    step_NK = solved_NK - price_N1 * ones_NK
    return step_NK, relaxed_N1 / shares_NK - multipliers_NK - multipliers_NK / shares_NK * step_NK


def _slopes(margins_NKC: torch.Tensor, shares_NK: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the cross-entropy."""
    probs_N1C = (shares_NK[:, :, None] * margins_NKC).sum(dim=1, keepdim=True).softmax(dim=-1)
    return (probs_N1C * margins_NKC).sum(dim=-1)


def _unmet(
    margins_NKC: torch.Tensor, shares_NK: torch.Tensor, multipliers_NK: torch.Tensor, relaxed_N1: torch.Tensor
) -> torch.Tensor:
    """Return how far the conditions are from being met: equal reduced slopes, and products that are as relaxed."""
    reduced_NK = _slopes(margins_NKC, shares_NK) - multipliers_NK
    reduced_NK = reduced_NK - reduced_NK.mean(dim=1, keepdim=True)
    return (reduced_NK.square() + (shares_NK * multipliers_NK - relaxed_N1).square()).sum(dim=1, keepdim=True).sqrt()


def _room(values_NK: torch.Tensor, step_NK: torch.Tensor) -> torch.Tensor:
    """Return the part of a step, at most all of it, that keeps the values above 0; `[N, 1]`."""
    shrinking = step_NK < 0
    room_NK = torch.where(shrinking, -values_NK / torch.where(shrinking, step_NK, -1.0), torch.inf)
    return (_STAY_INSIDE * room_NK.amin(dim=1, keepdim=True)).clamp(max=1.0)
