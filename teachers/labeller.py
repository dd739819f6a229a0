"""From the rows of a shard to what its label set stores of them: forward, check, select, batch by batch; then pack."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from cluster.shards.codecs.draws import draws_of
from cluster.shards.codecs.hidden import HiddenCodec
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import HiddenConfig
from cluster.shards.commits import Commit
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.shared import has_shared, publish_shared, read_shared
from cluster.shards.taps import pack_tap, tap_shapes
from teachers.backends.protocol import Backend, Forward
from teachers.outputs import check_output, figures_of, statistics_of
from teachers.reduction import reduced
from teachers.selection import select


class Labeller:
    """A loaded teacher."""

    def __init__(self, teacher: str, backend: Backend, batch_size: int) -> None:
        self._teacher, self._backend, self._batch_size = teacher, backend, batch_size
        self._shared: dict[str, dict[str, np.ndarray]] = {}
        """By identity of the label set."""

    def outputs(
        self,
        record: LabelSetRecord,
        number: int,
        arrays: Mapping[str, np.ndarray],
        *,
        on_batch: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, np.ndarray]:
        """Return what is selected of shard `number`, `[rows, ...]` each; `on_batch` hears how many rows are done.

        Raises:
            OutputRefusedError: the logits are not finite, or not of the set's positions and classes; or a tap is not.
        """
        rows, codec = len(next(iter(arrays.values()))), record.codec
        draws = draws_of(record.identity, number, (rows, *record.positions, codec.num_draws))
        parts = []
        for start in range(0, rows, self._batch_size):
            batch = slice(start, min(rows, start + self._batch_size))
            forward = self._backend.forward({name: array[batch] for name, array in arrays.items()})
            leading = (batch.stop - start, *record.positions)
            check = partial(check_output, teacher=self._teacher, shard=number, first_row=start)
            check(forward.logits, shape=(*leading, record.num_classes))
            if isinstance(codec, HiddenConfig) and forward.hidden is not None:
                check(forward.hidden, shape=(*leading, codec.width), entry="channel")
            selected = select(codec, forward.logits, draws=draws[batch], hidden=forward.hidden)
            parts.append(selected | figures_of(forward.logits) | _taps(record, forward, check))
            on_batch(batch.stop)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def columns(self, labels: LabelSet, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pack what `outputs` has returned into the columns that are stored."""
        codec = codec_of(labels.record.codec, labels.record.num_classes)
        if isinstance(codec, HiddenCodec):
            outputs = {**outputs, **self._share(labels, codec, outputs)}
        num_columns = len(codec.columns())
        return codec.pack(outputs) | {
            column.name: outputs[column.name] for column in labels.record.columns[num_columns:]
        }

    def commit(self, labels: LabelSet, number: int, outputs: Mapping[str, np.ndarray]) -> Commit:
        """Pack, encode and commit what `outputs` has returned."""
        columns = self.columns(labels, outputs)
        rows = len(next(iter(columns.values())))
        return labels.commit(number, labels.encode(columns), rows=rows, statistics=statistics_of(outputs))

    def _share(
        self, labels: LabelSet, codec: HiddenCodec, outputs: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """Return what all shards share; whoever commits first writes it, so that no shard is there without it."""
        if labels.identity not in self._shared:
            # In this order: whoever has committed a shard had written before what it shares.
            is_there = bool(labels.committed_numbers()) or has_shared(labels)
            self._shared[labels.identity] = (
                read_shared(labels) if is_there else publish_shared(labels, codec.share(outputs, *self._backend.head()))
            )
        return self._shared[labels.identity]


def _taps(record: LabelSetRecord, forward: Forward, check: Callable[..., None]) -> dict[str, np.ndarray]:
    """Return the columns of what was tapped, packed at once: a shard of whole outputs may not fit into memory."""
    columns: dict[str, np.ndarray] = {}
    for module, shape in tap_shapes(record.taps, record.columns).items():
        output = reduced(record.taps[module], forward.taps[module])
        check(output, shape=(len(forward.logits), *shape), entry="value")
        columns |= pack_tap(record.taps, module, output.cpu().numpy())
    return columns
