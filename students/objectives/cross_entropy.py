"""Cross-entropy with the labels, on the rows that have one.

    L = -Σ_c y(c) log q(c),   y = (1 - ε) onehot + ε / C   with label smoothing ε (1512.00567)

Legend: N rows, C classes.
"""

import torch
import torch.nn.functional as F

from cluster.shards.schema import NO_LABEL


def cross_entropy_rows(logits_NC: torch.Tensor, labels_N: torch.Tensor, *, label_smoothing: float) -> torch.Tensor:
    """Return the loss of each row, nats, `[N]`; 0 where the label is `NO_LABEL`."""
    return F.cross_entropy(
        logits_NC, labels_N, reduction="none", ignore_index=NO_LABEL, label_smoothing=label_smoothing
    )
