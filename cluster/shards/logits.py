"""The one door to a teacher's distributions, whatever the codec that stores them."""

import numpy as np

from cluster.shards.classes import widening_of
from cluster.shards.codecs.codec import Arrays, TemperatureNotServedError
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.sparse import SparseLabels
from cluster.shards.codecs.topk import TopKCodec
from cluster.shards.labelset import LabelSet
from cluster.shards.shared import read_shared


class LogitsReader:
    """Gives the logits of one label set, shard by shard or for rows that somebody has gathered."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        self._codec = codec_of(labels.record.codec, labels.record.num_classes)
        self._widening = widening_of(labels)
        self._shared: dict[str, np.ndarray] | None = None

    def read(self, number: int, *, temperature: float = 1.0) -> np.ndarray:
        """Return the logits of a committed shard; as `decode`."""
        return self.decode(self.labels.read(number), temperature=temperature)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that `decode` needs; the others of the set hold no distributions."""
        return tuple(column.name for column in self._codec.columns())

    def decode(self, arrays: Arrays, *, temperature: float = 1.0) -> np.ndarray:
        """Return float32 `[rows, *positions, classes]` whose softmax at `temperature` is the stored distribution there.

        The classes are those of the data set; of those that the teacher does not know the logit is minus infinity.

        `arrays` are rows of the set's columns. Of some codecs the logits for one temperature are not those for another:
        the mass of the classes that were not kept changes with it.

        Raises:
            TemperatureNotServedError: the labels do not hold the distribution at `temperature`.
        """
        logits = self.decode_own(arrays, temperature=temperature)
        return logits if self._widening is None else self._widening(logits)

    def decode_own(self, arrays: Arrays, *, temperature: float = 1.0) -> np.ndarray:
        """Return the same over the classes of the teacher alone, in the order of its outputs."""
        self._check_serves(temperature)
        if self._shared is None:
            self._shared = read_shared(self.labels)
        return self._codec.logits({**arrays, **self._shared}, temperature=temperature)

    def decode_sparse(self, arrays: Arrays, *, temperature: float = 1.0) -> SparseLabels:
        """Return what labels of the codec `topk` hold of the distribution at `temperature`, and raise as `decode`."""
        self._check_serves(temperature)
        assert isinstance(self._codec, TopKCodec), "a plan asks no other codec"  # noqa: S101
        return self._codec.decode(arrays, temperature=temperature)

    def _check_serves(self, temperature: float) -> None:
        record = self.labels.record
        if not record.codec.serves(temperature):
            assert record.codec.served is not None  # noqa: S101 - a codec without a list serves all
            where = f"{self.labels.store.uri}/{record.prefix}"
            raise TemperatureNotServedError(where, record.codec.codec, temperature, record.codec.served)
