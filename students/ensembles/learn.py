"""Learn from held-out rows how to combine teachers: one record, whatever the way. K teachers, N rows, C classes."""

from collections.abc import Sequence

import numpy as np
import torch

from students.ensembles.dawid_skene import fit_confusions
from students.ensembles.ensemble import Ensemble
from students.ensembles.greedy import select_greedily
from students.ensembles.record import EnsembleRecord
from students.ensembles.stacking import fit_stacking
from students.fusion import evidence
from students.metrics import accuracy, nll
from students.spec import FusionConfig


def learn(
    fusion: FusionConfig, teachers: Sequence[str], logits_KNC: Sequence[np.ndarray], labels_N: np.ndarray
) -> EnsembleRecord:
    """Return how the teachers are combined as `fusion` says, which has to be a way that is learned.

    `logits_KNC` are calibrated logits of the rows with these labels.
    """
    shares: tuple[float, ...] = ()
    weights_KCC, bias_C = np.zeros((0, 0, 0)), np.zeros(0)
    if fusion.select == "greedy":
        shares = select_greedily(logits_KNC, labels_N, combine=fusion.combine, by=fusion.select_by)
    else:
        stacked = torch.from_numpy(np.stack(logits_KNC).astype(np.float64))
        read_KNC = evidence(torch.log_softmax(stacked, dim=-1), fusion.combine).numpy()
        fit = fit_confusions if fusion.combine == "dawid_skene" else fit_stacking
        weights_KCC, bias_C = fit(read_KNC, labels_N, np.isfinite(stacked.numpy()).all(axis=1))
    record = EnsembleRecord(
        teachers=tuple(teachers),
        rows=len(labels_N),
        accuracy=0.0,
        nll=0.0,
        shares=shares,
        weights=tuple(tuple(map(tuple, rows)) for rows in weights_KCC.tolist()),
        bias=tuple(bias_C.tolist()),
    )
    ensemble = Ensemble.learned(fusion.combine, record)
    fused_NC = ensemble(ensemble.used(logits_KNC)).numpy()
    figures = {"accuracy": accuracy(fused_NC, labels_N), "nll": nll(fused_NC, labels_N)}
    return record.model_copy(update=figures)
