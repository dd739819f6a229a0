"""One contestant in a process of its own: prints the seconds of its training and the accuracy of its student as JSON.

python -m benchmarks.peers.contestant MODULE FUNCTION FOLDER SEED
"""

import importlib
import json
import sys
import time
from pathlib import Path

from benchmarks.peers.work import Work


def main() -> None:
    module, function, folder, seed = sys.argv[1:]
    train = getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)
    work, started_s = Work.open(Path(folder)), time.perf_counter()
    student = train(work, int(seed))
    seconds = time.perf_counter() - started_s
    print(json.dumps({"seconds": seconds, "accuracy": work.accuracy(student)}))


if __name__ == "__main__":
    main()
