"""The conversion to float32 against numpy's, on every number there is."""

import numpy as np

from cluster.shards.codecs.half import widened


def test_every_finite_half_is_widened_to_the_same_number() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]

    assert widened(finite).tobytes() == finite.astype(np.float32).tobytes()
    assert np.array_equal(widened(finite[:-2].reshape(2, -1)[:, ::3]), finite[:-2].reshape(2, -1)[:, ::3])
