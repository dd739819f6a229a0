"""One contestant in a process of its own: it trains a student and hands it in.

python -m benchmarks.peers.contestant MODULE FUNCTION FOLDER SEED
"""

import importlib
import sys
from pathlib import Path

from benchmarks.peers.work import Work


def main() -> None:
    module, function, folder, seed = sys.argv[1:]
    train = getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)
    work = Work.open(Path(folder))
    work.hand_in(train(work, int(seed)))


if __name__ == "__main__":
    main()
