"""One bit of a stored file is wrong: nobody may take the file for what was written, and nobody may crash.

Children read, so that a crash of Arrow's C++ is counted and not suffered.
"""

import random
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from cluster.errors import CoffeyError
from cluster.shards.compression import Compression
from cluster.shards.dataset import Dataset, write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.order import EpochOrder
from cluster.shards.reader import read_batches
from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from tests.simulation.children import forking
from tests.simulation.teacher import CLASSES, DATASET, NUM_SHARDS, RECORD, ROWS, inputs, outputs

REFUSED, ACCEPTED = "refused", "accepted"


@dataclass(frozen=True)
class FlipResult:
    """How the readings of damaged files ended."""

    refused: int
    accepted: int
    crashed: int
    files: int
    """Files of the store, each of which was damaged about equally often."""
    first_wrong: str = ""
    """Flip, file and outcome of the first that was not refused."""


def flip_bits(folder: Path, *, flips: int, seed: int, compression: Compression = "none") -> FlipResult:
    """Damage one bit of a sealed store `flips` times, and read everything each time."""
    files = write_store(folder / compression, compression)
    ends: list[str] = []
    while len(ends) < flips:
        for key, body in files.items():
            (folder / compression / key).write_bytes(body)  # what a crashed child has left damaged
        reading = _Reading(folder / compression, compression, files, seed, range(len(ends), flips))
        ends += reading.ends_of_child()
    wrong = [number for number, end in enumerate(ends) if end != REFUSED]
    first_wrong = f"{_flip(files, seed, wrong[0])}: {ends[wrong[0]]}" if wrong else ""
    counts = Counter(ends)
    refused, accepted = counts[REFUSED], counts[ACCEPTED]
    return FlipResult(refused, accepted, flips - refused - accepted, len(files), first_wrong)


def write_store(folder: Path, compression: Compression) -> dict[str, bytes]:
    """Write a data set and a sealed label set, and return all files by their keys."""
    store = open_store(str(folder))
    write_dataset(store, inputs(), identity=DATASET, classes=CLASSES, shard_rows=ROWS, compression=compression)
    labels = LabelSet.create(store, _record(compression))
    for number in range(NUM_SHARDS):
        body = labels.encode(outputs(number, 0))
        labels.commit(number, body, rows=ROWS, statistics={"mean_entropy": 0.872315, "mean_confidence": 0.613402})
    labels.seal(NUM_SHARDS)
    return {stat.key: bytes(store.get(stat.key)) for stat in store.list("")}


def read_everything(store: DirectoryStore, compression: Compression) -> None:
    """Read the store in every way there is: shuffled batches of a sealed set, and a set that still grows."""
    dataset = Dataset.open(store, DATASET)
    sealed = LabelSet.create(store, _record(compression))
    sealed.load_manifest()
    rows = [shard.rows for shard in dataset.record.shards]
    order = EpochOrder(rows, lanes=2, window_rows=ROWS, batch_size=ROWS, seed=0, epoch=0)
    for _ in read_batches(lambda number: dataset.read(number) | sealed.read(number), order, lanes=range(2)):
        pass
    growing = LabelSet(store, _record(compression))
    for number in sorted(growing.committed_numbers()):
        growing.read(number)


@dataclass(frozen=True)
class _Reading:
    """The work of one child: some flips, and how each reading ended."""

    folder: Path
    compression: Compression
    files: dict[str, bytes]
    seed: int
    flips: range

    def ends_of_child(self) -> list[str]:
        """Return how the readings ended; a crash is the last end of its child."""
        context = forking()
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=self._read_damaged, args=(sender,))
        child.start()
        sender.close()
        ends: list[str] = []
        try:
            while len(ends) < len(self.flips):
                ends.append(receiver.recv())
        except EOFError:
            child.join()
            ends.append(f"exit code {child.exitcode}")
        child.join()
        return ends

    def _read_damaged(self, sender: Connection) -> None:
        store = DirectoryStore(self.folder)
        read_everything(store, self.compression)  # undamaged, it is readable
        for number in self.flips:
            key, bit = _flip(self.files, self.seed, number)
            damaged = bytearray(self.files[key])
            damaged[bit // 8] ^= 1 << bit % 8
            (self.folder / key).write_bytes(damaged)
            sender.send(_end_of_reading(store, self.compression))
            (self.folder / key).write_bytes(self.files[key])


def _end_of_reading(store: DirectoryStore, compression: Compression) -> str:
    try:
        read_everything(store, compression)
    except CoffeyError:
        return REFUSED
    except Exception as error:
        return repr(error)
    return ACCEPTED


def _flip(files: dict[str, bytes], seed: int, number: int) -> tuple[str, int]:
    """Return the file of a flip and its bit."""
    draw = random.Random(f"{seed} {number}")
    key = draw.choice(sorted(files))
    return key, draw.randrange(8 * len(files[key]))


def _record(compression: Compression) -> LabelSetRecord:
    return RECORD.model_copy(update={"compression": compression})
