"""What makes logits of the output of a module in the middle of a student.

Legend: N rows, D features of the module's output, H those of the hint, C classes.
"""

import torch
from torch import nn

from students.objectives.maps import as_maps


class ExitHead(nn.Module):
    """The mean over positions, a linear map to a hint if there is one, and a linear classifier."""

    def __init__(self, num_features: int, num_classes: int, *, num_hints: int | None) -> None:
        super().__init__()
        self.adapter = None if num_hints is None else nn.Linear(num_features, num_hints)
        self.classifier = nn.Linear(num_features if num_hints is None else num_hints, num_classes)

    @classmethod
    def like(cls, weights: dict[str, torch.Tensor]) -> "ExitHead":
        """Return the head that these weights are of, with them."""
        adapter, classifier = weights.get("adapter.weight"), weights["classifier.weight"]
        num_features = (classifier if adapter is None else adapter).shape[1]
        head = cls(num_features, len(classifier), num_hints=None if adapter is None else len(adapter))
        head.load_state_dict(weights)
        return head

    def hint(self, output: torch.Tensor) -> torch.Tensor:
        """Return what is held against the student's last features, `[N, H]`; without hints the features `[N, D]`."""
        pooled_ND = pooled(output)
        if self.adapter is None:
            return pooled_ND
        hint_NH: torch.Tensor = self.adapter(pooled_ND)
        return hint_NH

    def classified(self, hint: torch.Tensor) -> torch.Tensor:
        """Return the logits that follow from what `hint` returned, `[N, C]`."""
        logits_NC: torch.Tensor = self.classifier(hint if self.adapter is None else hint.relu())
        return logits_NC

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        """Return the logits `[N, C]` from the module's output, `[N, D]`, `[N, L, D]` or `[N, D, H, W]`."""
        return self.classified(self.hint(output))


def pooled(output: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions, `[N, D]`."""
    return as_maps(output).mean(dim=(2, 3))
