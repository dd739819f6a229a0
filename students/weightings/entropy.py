"""Teachers that are sure count more: EBKD (Kwon et al. 2020, 10.1109/ICASSP40776.2020.9054698).

    w_k = (1 - H_k / Σ_j H_j) / (K - 1),   H_k = -Σ_c p_k(c) log p_k(c),   share ∝ π_k w_k

The code that CA-MKD (2201.00007) publishes for it leaves K - 1 out, so that the shares sum to K - 1, and divides by K
afterwards; here they sum to 1. Where all teachers are entirely sure their shares are the prior's.
"""

from typing import TYPE_CHECKING, Literal

from students.weightings.weighting import Panel, Weighting, complements, normalised

if TYPE_CHECKING:
    import torch


class EntropyWeighting(Weighting):
    """On each row more of the teachers whose distribution has less entropy (EBKD)."""

    reads = frozenset({"weights", "teachers"})
    needs_every_class = True

    method: Literal["entropy"] = "entropy"

    def shares(self, panel: Panel) -> "torch.Tensor":
        """Return shares, `[K, N]`."""
        import torch

        entropies_KN = torch.special.entr(panel.log_probs_KNC.exp()).sum(dim=-1)
        total_N = entropies_KN.sum(dim=0)
        equal_KN = torch.full_like(entropies_KN, 1 / len(entropies_KN))
        burdens_KN = torch.where(total_N > 0, entropies_KN / total_N, equal_KN)
        return normalised(panel.prior_KN * complements(burdens_KN))
