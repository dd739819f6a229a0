"""From the rows of a shard to what its label set stores of them: forward by batches, check and select, then pack."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from cluster.shards.codecs.draws import draws_of
from cluster.shards.codecs.hidden import HiddenCodec
from cluster.shards.codecs.open import codec_of
from cluster.shards.commits import Commit
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.shared import has_shared, publish_shared, read_shared
from cluster.shards.taps import pack_tap, tap_shapes
from teachers.backends.protocol import Backend, Forward, joined
from teachers.outputs import check_shape, check_values, figures_of, statistics_of
from teachers.reduction import reduced
from teachers.selection import select

_VALUES_AT_ONCE = 1 << 20
"""Outputs that are checked and selected in one call, of as many batches: a call for each batch took 4 % of the time of
a small CNN's forward, and on an accelerator each is a wait."""


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
        rows, codec = _num_rows(arrays), record.codec
        draws = draws_of(record.identity, number, (rows, *record.positions, codec.num_draws))
        parts = []
        for here, forward in self._forwards(record, number, arrays, on_batch):
            check = partial(check_values, teacher=self._teacher, shard=number, first_row=here.start)
            check(forward.logits)
            if forward.hidden is not None:
                check(forward.hidden, entry="channel")
            selected = select(codec, forward.logits, draws=draws[here], hidden=forward.hidden)
            parts.append(selected | figures_of(forward.logits) | _taps(record, number, forward, check))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _forwards(
        self,
        record: LabelSetRecord,
        number: int,
        arrays: Mapping[str, np.ndarray],
        on_batch: Callable[[int], None],
    ) -> Iterator[tuple[slice, Forward]]:
        """Run all batches; yield some rows and what the model says of them, of as many batches as are worth a call."""
        rows, pending, first = _num_rows(arrays), list[Forward](), 0
        for start in range(0, rows, self._batch_size):
            stop = min(rows, start + self._batch_size)
            forward = self._backend.forward({name: array[start:stop] for name, array in arrays.items()})
            expected = (stop - start, *record.positions, record.num_classes)
            check_shape(forward.logits, expected, teacher=self._teacher, shard=number)
            pending.append(forward)
            on_batch(stop)
            if stop == rows or sum(forward.num_values for forward in pending) >= _VALUES_AT_ONCE:
                yield slice(first, stop), joined(pending)
                pending, first = [], stop

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
        rows = _num_rows(columns)
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


def _num_rows(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values())))


def _taps(record: LabelSetRecord, number: int, forward: Forward, check: Callable[..., None]) -> dict[str, np.ndarray]:
    """Return the columns of what was tapped, packed at once: a shard of whole outputs may not fit into memory."""
    columns: dict[str, np.ndarray] = {}
    for module, shape in tap_shapes(record.taps, record.columns).items():
        output = reduced(record.taps[module], forward.taps[module])
        check_shape(output, (len(forward.logits), *shape), teacher=record.teacher, shard=number, entry="value")
        check(output, entry="value")
        columns |= pack_tap(record.taps, module, output.cpu().numpy())
    return columns
