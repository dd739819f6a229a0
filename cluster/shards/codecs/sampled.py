"""Random-sampling distillation (Anshumann et al. 2025, 2503.16870): S classes drawn from the teacher, each worth 1 / S.

    p̂(c) = count(c) / S,   E[p̂] = p

Unbiased at T = 1 and at no other temperature. The draws are stored as they are, ascending, a class as often as it was
drawn: in rows of one fixed length that takes fewer bytes than ids with counts, of which most would be empty.
"""

from dataclasses import dataclass

import numpy as np

from cluster.shards.codecs.codec import LOWEST, Arrays, Codec, id_dtype
from cluster.shards.codecs.sparse import SparseLabels
from cluster.shards.codecs.spec import SampledConfig
from cluster.shards.schema import Column


@dataclass(frozen=True)
class SampledCodec(Codec):
    """Draws from all classes."""

    config: SampledConfig
    num_classes: int

    def columns(self, positions: tuple[int, ...] = ()) -> tuple[Column, ...]:
        """Return the one column `draws`."""
        return (Column(name="draws", dtype=id_dtype(self.num_classes), shape=(*positions, self.config.draws)),)

    def pack(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Pack `draws`."""
        return {"draws": np.sort(outputs["draws"], axis=-1).astype(id_dtype(self.num_classes))}

    def decode(self, arrays: Arrays, *, temperature: float = 1.0) -> SparseLabels:
        """Return the draws as a distribution without a head's tail; the masses of a class that occurs twice add up."""
        draws = arrays["draws"]
        none = np.empty((*draws.shape[:-1], 0), draws.dtype)
        nothing = np.full(draws.shape[:-1], LOWEST, np.float32)
        log_probs = np.broadcast_to(np.float32(-np.log(self.config.draws)), draws.shape)
        no_masses = none.astype(np.float32)
        return SparseLabels(draws, log_probs, nothing, np.zeros_like(nothing), none, no_masses, no_masses)

    def logits(self, arrays: Arrays, *, temperature: float) -> np.ndarray:
        """Return the log of each class's share of the draws, float32 `[N, *P, C]`; `LOWEST` for those never drawn."""
        draws = arrays["draws"].reshape(-1, self.config.draws)
        places = draws + self.num_classes * np.arange(len(draws), dtype=np.int64)[:, None]
        counts = np.bincount(places.reshape(-1), minlength=len(draws) * self.num_classes)
        logs = np.log(np.arange(1, self.config.draws + 1) / self.config.draws)
        by_count = np.concatenate([[LOWEST], logs]).astype(np.float32)
        return by_count[counts].reshape(*arrays["draws"].shape[:-1], self.num_classes)
