"""torchvision beside another build of torch than its wheel was made for, such as the one without CUDA.

Its own operators cannot be loaded then, and it does not import, since it describes two of them. torchdistill imports
its models and uses none here: with these two declared, and never called, both import.
"""

import torch

OPERATORS = ("nms", "qnms")


def import_torchvision() -> None:
    """Import torchvision, without its operators if they do not fit."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in OPERATORS:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
