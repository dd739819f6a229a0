"""Teachers that agree on where to go count more: AEKD (Du et al. 2020, "Agree to Disagree: Adaptive Ensemble Knowledge
Distillation in Gradient Space", NeurIPS; compared with in 2201.00007).

    w = argmin ½ ‖Σ_k w_k g_k‖²   with Σ_k w_k = 1 and 0 <= w_k <= C,   g_k = 1/N Σ_n ∂ℓ_k(n) / ∂z_s(n)

ℓ_k = T² KL(p_k,T || q_T) is the loss of the student towards teacher k alone, so that g_k = T mean_n(q_T - p_k,T), over
the rows of the global batch. The shares are the same on all rows of a batch, and `fusion.weights` has no part in them.
The cap C keeps one teacher from ruling alone. The reference solves it as the dual of a one-class SVM with ν = 1 / (C
K), up to that solver's tolerance; here it is solved exactly.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.weightings.weighting import Panel, Weighting

if TYPE_CHECKING:
    import torch


class GradientWeighting(Weighting):
    """In each batch the shares whose mix of gradients at the student's logits is the shortest (AEKD)."""

    reads = frozenset({"teachers", "student"})
    needs_whole_batches = True

    method: Literal["gradient"] = "gradient"
    cap: Annotated[float, Field(gt=0, le=1)] = 0.6
    """The largest share that a teacher may have."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the losses whose gradients are compared; 4 in the reference."""

    def shares(self, panel: Panel) -> "torch.Tensor":
        """Return shares, `[K, N]`, equal on all rows."""
        import torch

        from students.weightings.min_norm import min_norm_shares

        q_NC = (panel.student_NC / self.temperature).softmax(dim=-1)
        p_KNC = (panel.log_probs_KNC / self.temperature).softmax(dim=-1)
        sums_KC = panel.sum_over_workers(self.temperature * (q_NC - p_KNC).sum(dim=1))
        gradients_KC = (sums_KC / panel.global_rows).double().cpu().numpy()
        shares_K = torch.from_numpy(min_norm_shares(gradients_KC, cap=self.cap)).to(panel.prior_K)
        return shares_K[:, None].expand(panel.log_probs_KNC.shape[:2])
