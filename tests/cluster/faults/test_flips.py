"""A flipped bit anywhere in a store is refused: no wrong row, no wrong name, no crash."""

from pathlib import Path

import pytest

from cluster.shards.compression import Compression
from tests.simulation.flips import FlipResult, flip_bits


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_no_flipped_bit_is_accepted_and_none_crashes_the_reader(tmp_path: Path, compression: Compression) -> None:
    result = flip_bits(tmp_path, flips=100, seed=1, compression=compression)

    assert result == FlipResult(refused=100, accepted=0, crashed=0, files=12)
