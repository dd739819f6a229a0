"""How far apart two clocks are, as far as one answer tells."""

MOST_SKEW_S = 60.0
"""Clocks that are further apart deserve a word."""


def skew_s(*, asked_s: float, told_s: float, answered_s: float) -> float:
    """Return the least by which a clock that said `told_s`, in whole seconds rounded down, differs from ours.

    `asked_s` and `answered_s` are what ours said before and after.
    """
    return max(0.0, asked_s - 1 - told_s, told_s - answered_s)
