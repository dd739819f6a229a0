"""What each teacher adds: the ensemble without it. And what the ensemble knows of rows that did not teach it.

Both combine anew wherever that is learned: other teachers, or other held-out rows, teach another combination. N rows,
C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.shards.calibration import Calibration
from cluster.shards.codecs.codec import LOWEST
from cluster.shards.schema import LABEL
from orchestrator.report.record import Contribution
from students.blend import for_unseen_rows, fuse_rows
from students.ensembles.ensemble import Ensemble
from students.ensembles.learn import learn
from students.metrics import accuracy, nll
from students.spec import FusionConfig
from students.weightings.static import StaticWeighting

_FOLDS = 5


@dataclass(frozen=True)
class Voice:
    """One teacher of an ensemble, with its raw logits `[N, C]` of held-out and test rows."""

    name: str
    weight: float
    calibration: Calibration
    held_out_NC: np.ndarray
    test_NC: np.ndarray


def contributions(
    fusion: FusionConfig,
    voices: Sequence[Voice],
    ensemble: Ensemble,
    *,
    held_out: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
) -> tuple[Contribution, ...]:
    """Return one for each teacher, with the figures of the test rows; empty where there is but one teacher.

    `held_out` and `test` are columns of these rows.
    """
    shares: dict[int, float] = {}
    has_shares = not fusion.has_tables and for_unseen_rows(fusion.weighting) == StaticWeighting()
    if has_shares:
        shares = {
            place: weight / sum(ensemble.weights)
            for place, weight in zip(ensemble.places, ensemble.weights, strict=True)
        }
    found = []
    for place, voice in enumerate(voices) if len(voices) > 1 else ():
        others = [*voices[:place], *voices[place + 1 :]]
        without = _combined(fusion, others, held_out[LABEL])
        fused_NC = belief_on_test_rows(fusion, others, without, test)
        found.append(
            Contribution(
                teacher=voice.name,
                share=shares.get(place, 0.0) if has_shares else None,
                accuracy=accuracy(fused_NC, test[LABEL]),
                nll=_nll(fused_NC, test[LABEL]),
            )
        )
    return tuple(found)


def belief_on_test_rows(
    fusion: FusionConfig, voices: Sequence[Voice], ensemble: Ensemble, rows: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return what the ensemble of these teachers says of the test rows, log-probabilities `[N, C]`."""
    return _belief(fusion, voices, ensemble, [voice.test_NC for voice in voices], rows)


def held_out_belief(
    fusion: FusionConfig, voices: Sequence[Voice], ensemble: Ensemble, rows: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return what the ensemble says of the held-out rows, log-probabilities `[N, C]`.

    Where held-out rows teach the combination, each fifth of them is judged by one that the other four fifths taught: it
    would do too well on its own.
    """
    labels_N = rows[LABEL]
    if not fusion.is_learned or len(labels_N) < _FOLDS:
        return _belief(fusion, voices, ensemble, [voice.held_out_NC for voice in voices], rows)
    fold_N = np.arange(len(labels_N)) % _FOLDS
    fused_NC = np.empty_like(voices[0].held_out_NC, np.float32)
    for fold in range(_FOLDS):
        judged_N = fold_N == fold
        taught = _combined(fusion, voices, labels_N, rows_N=~judged_N)
        fused_NC[judged_N] = taught([voice.held_out_NC[judged_N] for voice in taught.used(voices)]).numpy()
    return fused_NC


def _nll(fused_NC: np.ndarray, labels_N: np.ndarray) -> float | None:
    """Return the mean over the rows; None where one is of a class that nobody who is asked about it knows."""
    of_labels_N = fused_NC[np.arange(len(labels_N)), labels_N]
    return nll(fused_NC, labels_N) if (of_labels_N > LOWEST).all() else None


def _belief(
    fusion: FusionConfig,
    voices: Sequence[Voice],
    ensemble: Ensemble,
    logits_KNC: Sequence[np.ndarray],
    rows: Mapping[str, np.ndarray],
) -> np.ndarray:
    weighting, names = for_unseen_rows(fusion.weighting), [voice.name for voice in ensemble.used(voices)]
    log_probs_KNC = ensemble.calibrated(ensemble.used(logits_KNC))
    fused_NC: np.ndarray = fuse_rows(ensemble, weighting, names, log_probs_KNC, rows).numpy()
    return fused_NC


def _combined(
    fusion: FusionConfig, voices: Sequence[Voice], labels_N: np.ndarray, *, rows_N: np.ndarray | slice = slice(None)
) -> Ensemble:
    """Return these teachers combined, by their weights or as some of the held-out rows teach."""
    calibrations = [voice.calibration for voice in voices]
    if not fusion.is_learned:
        return Ensemble.weighted(fusion.combine, [voice.weight for voice in voices], calibrations)
    logits = [voice.calibration.apply(voice.held_out_NC[rows_N]) for voice in voices]
    record = learn(fusion, [voice.name for voice in voices], logits, labels_N[rows_N])
    return Ensemble.learned(fusion.combine, record, calibrations)
