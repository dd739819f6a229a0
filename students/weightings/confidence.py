"""Teachers that are right count more: CA-MKD (Zhang, Chen, Wang 2022, 2201.00007).

    w_k = (1 - exp(L_k) / Σ_j exp(L_j)) / (K - 1),   L_k = -log p_k(y),   share ∝ π_k w_k

on the labelled rows; on the others, of which nobody knows who is right, the shares are the prior's. The paper also
weighs features, by how right the student's features are in each teacher's classifier: that part is not here.
"""

from typing import TYPE_CHECKING, Literal

from students.weightings.weighting import Panel, Weighting, complements, normalised

if TYPE_CHECKING:
    import torch


class ConfidenceWeighting(Weighting):
    """On each labelled row more of the teachers whose cross-entropy with the label is small (2201.00007)."""

    reads = frozenset({"weights", "teachers", "labels"})
    needs_every_class = True

    method: Literal["confidence"] = "confidence"

    def shares(self, panel: Panel) -> "torch.Tensor":
        """Return shares, `[K, N]`; the prior where the label is `NO_LABEL`."""
        import torch

        own_KN1 = panel.labels_N.clamp(min=0)[None, :, None].expand(*panel.log_probs_KNC.shape[:2], 1)
        losses_KN = -panel.log_probs_KNC.gather(2, own_KN1).squeeze(2)
        weighed_KN = normalised(panel.prior_KN * complements(losses_KN.softmax(dim=0)))
        return torch.where(panel.labels_N >= 0, weighed_KN, panel.prior_KN)
