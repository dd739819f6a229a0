"""Processes forked from one that has imported everything: they start in milliseconds and can be killed."""

import os
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PRELOADED = ["teachers.deployment", "tests.simulation.kills", "tests.simulation.flips"]


def forking() -> ForkServerContext:
    """Return the context whose processes begin with `_PRELOADED` imported, and with no thread but their own."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    # The server that forks looks for modules where a fresh interpreter would.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, paths)])
    return context
