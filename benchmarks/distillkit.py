"""The codings that DistillKit's README calls `recommended` and `budget`, transcribed for comparison (a61c2e7, 2026-03).

The first log-probabilities are kept in bfloat16; the others are the least-squares fit, over their rank, of a constant,
powers and a square root, whose coefficients are float32. The fit is made in float64 here, which is better than what is
published: in float32 the many powers of `recommended` are ill-conditioned. Ids take ceil(log2 C) bits. The mass of the
tail is not stored: what the decoded head leaves of 1 is spread evenly, and where it leaves nothing, a millionth is.
"""

from dataclasses import dataclass

import numpy as np
import torch

SMALLEST_TAIL = 1e-6


@dataclass(frozen=True)
class Polynomial:
    """One setting."""

    name: str
    k: int
    exact: int
    powers: tuple[float, ...]

    def token_bytes(self, num_classes: int) -> int:
        """Return the bytes of one position."""
        id_bits = (num_classes - 1).bit_length()
        return 2 * self.exact + 4 * len(self.powers) + -(-self.k * id_bits // 8)

    def decoded(self, log_probs_MK: np.ndarray) -> np.ndarray:
        """Return the first `k` of descending log-probabilities as a reader would have them, float32."""
        head = torch.from_numpy(log_probs_MK[:, : self.exact].astype(np.float32)).bfloat16().float().numpy()
        ranks = np.arange(self.k - self.exact, dtype=np.float64)
        basis = np.stack([ranks**power for power in self.powers], axis=1)
        rest = log_probs_MK[:, self.exact : self.k].astype(np.float64)
        coefficients = (rest @ np.linalg.pinv(basis).T).astype(np.float32)
        return np.concatenate([head, coefficients @ basis.T], axis=1).astype(np.float32)


SETTINGS = (
    Polynomial("DistillKit budget", 50, 1, (0, 1, 0.5)),
    Polynomial("DistillKit recommended", 128, 16, (0, 1, 2, 3, 4, 0.5)),
)
