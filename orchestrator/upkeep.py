"""Keeping label sets in order: asking teachers again, and labelling exactly what is broken."""

import math
import random
from collections.abc import Iterator
from typing import Literal

import numpy as np
from scipy.special import softmax

from cluster.config import Config
from cluster.errors import DataError
from cluster.identity import digest_of
from cluster.shards.codecs.codec import Arrays
from cluster.shards.codecs.spec import DenseConfig, HiddenConfig, SampledConfig, TopKConfig
from cluster.shards.damage import dataset_of, find_damages
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.shared import read_shared, withdraw_shared
from cluster.shards.taps import STEPS, unpack_tap
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from orchestrator.resolution.resolve import Job
from orchestrator.resolution.weights import weights_of
from teachers.rerun import Rerun

TOLERANCE = 2.0**-8
"""Largest difference, as a share of the largest value of the row (at least 1), that another machine may make.

float16 stores a value to a share of 2**-11, and a GPU that multiplies in TF32, or in other batches, loses about 2**-9.
"""

_AGREEING_ROWS = 0.99

_Fate = Literal["put_back", "labelled", "withdrawn"]


class Comparison(Config):
    """One shard as it is stored, and as its teacher says it now."""

    name: str
    """Directory of the label set, without what stands before it."""
    shard: int
    rows: int
    difference: float
    """Largest difference, as a share of the largest value of its row (at least 1); outputs of modules count too."""
    agreement: float
    """Share of the rows whose largest value stands in the same place."""

    @property
    def differs(self) -> bool:
        """Whether rounding does not explain the difference."""
        return not self.difference <= TOLERANCE


class Repair(Config):
    """What became of the broken shards of one label set."""

    name: str
    put_back: tuple[int, ...] = ()
    """Their teacher said the same again, and the data went back under its digest."""
    labelled: tuple[int, ...] = ()
    """Committed anew."""
    withdrawn: tuple[int, ...] = ()
    """Left to the next run, which computes exactly these."""
    records: tuple[str, ...] = ()
    """What was wrong with the description or the seal."""

    @property
    def is_needed(self) -> bool:
        """Whether anything was broken."""
        return bool(self.put_back or self.labelled or self.withdrawn or self.records)


class Teachers:
    """The teachers of a job, loaded in this process when they are asked."""

    def __init__(self, job: Job, store: ObjectStore) -> None:
        self._store, self._loaded = store, dict[str, Rerun]()
        self._of = {record.prefix: teacher for teacher in job.labellers for record in teacher.label_sets}
        self.records = {record.prefix: record for teacher in job.labellers for record in teacher.label_sets}
        """Every label set of the job, by its directory; the ensemble's has no teacher that could be asked."""
        if job.fused is not None:
            self.records |= {record.prefix: record for record in job.seen(job.fused)}

    def rerun_of(self, prefix: str) -> Rerun | None:
        """Return the teacher that wrote the label set at `prefix`; None for that of an ensemble."""
        if (teacher := self._of.get(prefix)) is None:
            return None
        name = teacher.config.name  # not its identity: the same weights may teach twice, under two codecs
        if name not in self._loaded:
            self._loaded[name] = Rerun(self._store, teacher.config, weights_of(self._store, teacher))
        return self._loaded[name]


def rerun(
    store: ObjectStore, record: LabelSetRecord, teacher: Rerun, *, num_shards: int, seed: int
) -> Iterator[Comparison]:
    """Ask the teacher again for some committed shards of a sound label set, drawn at random; yield each comparison."""
    labels = LabelSet(store, record)
    reader, commits = LogitsReader(labels), labels.commits()
    drawn = random.Random(seed).sample(commits, min(num_shards, len(commits)))
    for commit in sorted(drawn, key=lambda commit: commit.number):
        answers = labels.read(commit.number), teacher.ask(record, commit.number).columns
        stored, again = (_numbers(reader, columns) for columns in answers)
        difference, agreement = compare(stored, again, step=_step_of(record), share=_share_of(record))
        difference = max([difference, *_differences_of_taps(record, *answers)], key=lambda it: (math.isnan(it), it))
        yield Comparison(
            name=_name(record.prefix),
            shard=commit.number,
            rows=commit.rows,
            difference=difference,
            agreement=agreement,
        )


def compare(stored: np.ndarray, again: np.ndarray, *, step: float = 0.0, share: float = 1.0) -> tuple[float, float]:
    """Return the difference between the numbers of two shards, relative to each row, and their agreement.

    It is that of the row at `share` of all rows, in ascending order: 1 is the worst of all. A difference of one `step`
    in a row counts as none.
    """
    ours, theirs = (np.asarray(values, np.float64).reshape(len(values), -1) for values in (stored, again))
    scale = np.maximum(1.0, np.abs(ours).max(axis=1, keepdims=True))
    rows = np.sort((np.abs(ours - theirs) / scale).max(axis=1))  # NaN comes last
    difference = max(0.0, float(rows[math.ceil(share * len(rows)) - 1]) - step)
    if np.isnan(rows[-1]):
        difference = math.nan
    return difference, float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())


def _differences_of_taps(record: LabelSetRecord, stored: Arrays, again: Arrays) -> Iterator[float]:
    """Yield how far the outputs of each module are apart, of which rounding to bytes tips some to the next step."""
    for module, config in record.taps.items():
        outputs = (unpack_tap(record.taps, module, columns) for columns in (stored, again))
        yield compare(*outputs, step=1 / STEPS if config.values == "int8" else 0.0)[0]


def _step_of(record: LabelSetRecord) -> float:
    """Return what the smallest change of what a codec stores does to a probability."""
    match record.codec:
        case SampledConfig(draws=draws):
            return 1 / draws
        case TopKConfig(values="int8" | "int4"):
            return 2.0**-6
    return 0.0


def _share_of(record: LabelSetRecord) -> float:
    """Return the share of rows that must agree: where draws or ranks are stored, rounding tips some over."""
    return _AGREEING_ROWS if isinstance(record.codec, SampledConfig | TopKConfig) else 1.0


def _numbers(reader: LogitsReader, columns: Arrays) -> np.ndarray:
    """Return logits, or probabilities where a codec keeps no logits of the classes that it leaves out."""
    logits = reader.decode_own(columns)
    if isinstance(reader.labels.record.codec, DenseConfig | HiddenConfig):
        return logits
    shares: np.ndarray = softmax(logits.astype(np.float64), axis=-1)
    return shares


def repair(store: ObjectStore, prefix: str, *, teachers: Teachers | None) -> Repair:
    """Mend the label set at `prefix`, and leave every sound shard of it untouched.

    A broken shard is computed again. If its teacher says the same, bit by bit, the data is put back, and no record
    changes. Otherwise its record, and the seal that repeats it, are replaced. Without a teacher to ask, they are
    withdrawn, and the next run computes the shard. Whoever is killed in between repairs, or runs, again.

    Raises:
        DataError: the description cannot be read, and there is no spec to write it from; or an input shard is broken.
    """
    labels, records = _described(store, prefix, teachers)
    if lost := _problem_of_shared(labels):
        return Repair(name=_name(prefix), withdrawn=withdraw_shared(labels), records=(*records, lost))
    dataset = dataset_of(store, labels.record)
    numbers = set(range(len(dataset.shards))) if dataset else set[int]()
    commits, damages = find_damages(labels, dataset)
    digests = {commit.number: commit.digest for commit in commits}
    fates: dict[_Fate, list[int]] = {"put_back": [], "labelled": [], "withdrawn": []}
    for number in (damage.shard for damage in damages if damage.shard is not None):
        teacher = teachers.rerun_of(prefix) if teachers and number in numbers else None
        fates[_mend(labels, number, digests.get(number), teacher)].append(number)
    if broken_seal := [damage.problem for damage in damages if damage.shard is None]:
        labels.withdraw(())
    if numbers and numbers <= labels.committed_numbers() and not labels.is_sealed():
        labels.seal(len(numbers))
    return Repair(
        name=_name(prefix), records=(*records, *broken_seal), **{fate: tuple(it) for fate, it in fates.items()}
    )


def _described(store: ObjectStore, prefix: str, teachers: Teachers | None) -> tuple[LabelSet, list[str]]:
    """Open the set, after writing its description again if it is broken and the job knows it."""
    try:
        return LabelSet.open(store, prefix), []
    except (DataError, ObjectMissingError) as error:
        if teachers is None or prefix not in teachers.records:
            raise
        labels = LabelSet(store, teachers.records[prefix])
        labels.restore_description()
        return labels, [str(error)]


def _problem_of_shared(labels: LabelSet) -> str:
    try:
        read_shared(labels)
    except ObjectMissingError:
        return ""  # no shard is there that would need it
    except DataError as error:
        return str(error)
    return ""


def _mend(labels: LabelSet, number: int, digest: str | None, teacher: Rerun | None) -> _Fate:
    if teacher is None:
        labels.withdraw([number])
        return "withdrawn"
    answer = teacher.ask(labels.record, number)
    body = labels.encode(answer.columns)
    if digest_of(body) == digest:
        labels.put_back(body)
        return "put_back"
    labels.replace(number, body, rows=answer.rows, statistics=answer.statistics)
    return "labelled"


def _name(prefix: str) -> str:
    return prefix.rpartition("/")[2]
