"""The K most probable classes, the mass of the others at every planned temperature, and draws from the others.

Values are raw log-probabilities, descending. For each temperature T the log-odds of the tail are stored, log of the
mass of all other classes over that of the K: a top-k list at T = 1 does not determine them at any other T, and they say
the normaliser Σ p^(1/T) too. In this form head and tail sum to 1 exactly, neither suffers from cancellation, and the
values need no common offset. The S draws are independent, from the teacher's distribution over the other classes.
"""

from dataclasses import dataclass

import numpy as np

from cluster.shards.codecs.codec import LOWEST, Arrays, Codec, CodecMisfitError, id_dtype
from cluster.shards.codecs.deltas import Bits, pack_deltas, packed_bytes, unpack_deltas
from cluster.shards.codecs.half import widened
from cluster.shards.codecs.sparse import SparseLabels
from cluster.shards.codecs.spec import TopKConfig
from cluster.shards.schema import Column

_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class TopKCodec(Codec):
    """Log-probabilities of the K likeliest classes, log-odds of the others, and draws from these."""

    config: TopKConfig
    num_classes: int

    def __post_init__(self) -> None:
        k, draws, classes = self.config.k, self.config.tail_samples, self.num_classes
        if k > classes:
            raise CodecMisfitError("labels.k", k, classes, f"at most {classes}")
        if k == classes and draws:
            raise CodecMisfitError("labels.tail_samples", draws, classes, "0, because k leaves no other class")

    def columns(self, positions: tuple[int, ...] = ()) -> tuple[Column, ...]:
        """Return `ids`, the values as `log_probs` or as `steps` and `scale`, `tail`, and the draws."""
        ids, shapes = id_dtype(self.num_classes), self._value_shapes()
        columns = [("ids", ids, (self.config.k,)), *shapes, ("tail", "float16", (len(self.config.served),))]
        if self.config.tail_samples:
            draws = (self.config.tail_samples,)
            columns += [("tail_ids", ids, draws), ("tail_log_probs", "float16", draws)]
        return tuple(
            Column.model_validate({"name": name, "dtype": dtype, "shape": (*positions, *shape)})
            for name, dtype, shape in columns
        )

    def pack(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Pack `ids`, `log_probs` and `tail` `[N, *P, len(served)]`, and `tail_ids` and `tail_log_probs`, if any."""
        ids = id_dtype(self.num_classes)
        packed = {"ids": outputs["ids"].astype(ids), **self._pack_values(np.maximum(outputs["log_probs"], LOWEST))}
        packed["tail"] = np.clip(outputs["tail"], LOWEST, -LOWEST).astype(np.float16)
        if self.config.tail_samples:
            packed["tail_ids"] = outputs["tail_ids"].astype(ids)
            packed["tail_log_probs"] = np.maximum(outputs["tail_log_probs"], LOWEST).astype(np.float16)
        return packed

    def decode(self, arrays: Arrays, *, temperature: float = 1.0) -> SparseLabels:
        """Return what is stored, at `temperature`, which is one of those served."""
        values = self._unpack_values(arrays)
        log_probs, log_tail = self._at(values, arrays, temperature)
        draws = arrays.get("tail_ids", np.empty((*log_tail.shape, 0), arrays["ids"].dtype))
        drawn = widened(arrays["tail_log_probs"]) if self.config.tail_samples else np.zeros(draws.shape, np.float32)
        if temperature == 1.0:
            masses = np.broadcast_to(
                (log_tail - np.float32(np.log(max(1, self.config.tail_samples))))[..., None], draws.shape
            )
            return SparseLabels(arrays["ids"], log_probs, log_tail, np.zeros_like(log_tail), draws, drawn, masses)
        raw, raw_tail = self._at(values, arrays, 1.0)
        log_normaliser = raw[..., 0] / np.float32(temperature) - log_probs[..., 0]
        # Drawn with probability p / tail at T = 1, and standing for p^(1/T) / normaliser.
        weights = raw_tail - log_normaliser - np.float32(np.log(max(1, self.config.tail_samples)))
        masses = drawn * np.float32(1 / temperature - 1) + weights[..., None]
        tempered = drawn * np.float32(1 / temperature) - log_normaliser[..., None]
        return SparseLabels(arrays["ids"], log_probs, log_tail, log_normaliser, draws, tempered, masses)

    def logits(self, arrays: Arrays, *, temperature: float) -> np.ndarray:
        """Return float32 `[N, *P, C]`: head and mass of the tail as stored, the tail spread evenly."""
        log_probs, log_tail = self._at(self._unpack_values(arrays), arrays, temperature)
        others = log_tail - np.float32(np.log(max(1, self.num_classes - self.config.k)))
        logits = np.empty((*log_tail.shape, self.num_classes), np.float32)
        logits[...] = np.maximum(others * np.float32(temperature), LOWEST)[..., None]
        head = np.maximum(log_probs * np.float32(temperature), LOWEST)
        np.put_along_axis(logits, arrays["ids"].astype(np.int64), head, axis=-1)
        return logits

    def _at(self, values: np.ndarray, arrays: Arrays, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probabilities `[N, *P, K]` and the log of the tail's mass `[N, *P]`, float32."""
        odds = widened(arrays["tail"][..., self.config.served.index(temperature)])
        scaled = values if temperature == 1.0 else values * np.float32(1 / temperature)
        first = scaled[..., :1]  # the largest
        work = scaled - first
        sums = np.exp(work, out=work).sum(axis=-1, keepdims=True)
        log_head = -np.logaddexp(np.float32(0), odds)
        return np.add(scaled, log_head[..., None] - first - np.log(sums), out=work), odds + log_head

    def _value_shapes(self) -> list[tuple[str, str, tuple[int, ...]]]:
        if self.config.values == "float16":
            return [("log_probs", "float16", (self.config.k,))]
        if self.config.k == 1:
            return []
        return [("steps", "uint8", (packed_bytes(self.config.k, _BITS[self.config.values]),)), ("scale", "float16", ())]

    def _pack_values(self, log_probs: np.ndarray) -> dict[str, np.ndarray]:
        if self.config.values == "float16":
            return {"log_probs": log_probs.astype(np.float16)}
        if self.config.k == 1:
            return {}
        steps, scale = pack_deltas(log_probs, bits=_BITS[self.config.values])
        return {"steps": steps, "scale": scale}

    def _unpack_values(self, arrays: Arrays) -> np.ndarray:
        """Return the log-probabilities but for an offset of each row, float32 `[N, *P, K]`."""
        if self.config.values == "float16":
            return widened(arrays["log_probs"])
        if self.config.k == 1:
            return np.zeros(arrays["ids"].shape, np.float32)
        return unpack_deltas(arrays["steps"], arrays["scale"], count=self.config.k, bits=_BITS[self.config.values])
