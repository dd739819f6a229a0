"""How much memory a reading process takes at most, of a store that it is pointed to: run as a child, prints bytes."""

import re
import sys
from pathlib import Path

import torch

from benchmarks.reader import data, ours
from cluster.memory import keep_freed_memory
from cluster.storage.open import open_store


def main(uri: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    epoch = ours.reader(open_store(uri), data.small(1))
    for number in range(2):
        for _batch in epoch(number):
            pass
    # Not `ru_maxrss`: that of a child begins with the size of the parent that it was forked from.
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(int(kib) * 1024)


if __name__ == "__main__":
    main(sys.argv[1])
