"""Confusion matrices of the teachers' votes (Dawid and Skene 1979, Applied Statistics 28: 20-28), by EM.

    P(class c | votes v) ∝ π_c Π_k θ_k[c, v_k]

    M step   π_c = (n_c + 1/C) / (n + 1),   θ_k[c, v] = (n_k[c, v] + 1/C) / (n_c + 1)
    E step   rows without a label: their P(c | votes) above; rows with one: that class

n_c counts rows of class c, n_k[c, v] those of them on which teacher k voted v, a row without a label in the parts of
its P(c | votes), which start as the shares of its votes. Each class begins with the prior of one row whose votes are
spread evenly, so no vote is impossible and a class that no row has stays possible. Where every row has a label nothing
is unknown and the first M step is the answer. A teacher that knows some classes, a specialist, votes for one of these
whatever the class is: its first row of votes is spread over these, and there are no entries for other votes. Legend: K
teachers, N rows, C classes.

Teachers are taken to err independently given the class. Those that learned from the same rows do not quite: decisions
gain more than probabilities, which are too sure.
"""

import numpy as np
from scipy.special import softmax

from cluster.shards.schema import NO_LABEL

_MOST_ROUNDS = 1000
_SETTLED = 1e-9
"""Largest change of a row's probabilities at which EM has arrived."""


def fit_confusions(
    votes_KNC: np.ndarray, labels_N: np.ndarray, known_KC: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `[K, C, C]` log P(teacher says v, second axis | class c, third axis), and log π `[C]`.

    `votes_KNC` are zeros and a one where a teacher votes; a label may be `NO_LABEL`. `known_KC` says which classes each
    teacher knows, by default all; what tells of votes for others is 0, for nobody reads it.
    """
    known_KC = np.ones((len(votes_KNC), votes_KNC.shape[2]), bool) if known_KC is None else known_KC
    known_N = labels_N != NO_LABEL
    beliefs_NC = votes_KNC.mean(axis=0, dtype=np.float64)
    beliefs_NC[known_N] = np.eye(votes_KNC.shape[2])[labels_N[known_N]]
    for _ in range(_MOST_ROUNDS):
        tables_KCC, prior_C = _maximise(votes_KNC, beliefs_NC, known_KC)
        inferred_NC = softmax(np.einsum("knv,kvc->nc", votes_KNC[:, ~known_N], tables_KCC) + prior_C, axis=1)
        change = np.abs(inferred_NC - beliefs_NC[~known_N]).max(initial=0.0)
        beliefs_NC[~known_N] = inferred_NC
        if change < _SETTLED:
            break
    return tables_KCC, prior_C


def _maximise(votes_KNC: np.ndarray, beliefs_NC: np.ndarray, known_KC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    num_rows, num_classes = beliefs_NC.shape
    rows_C = beliefs_NC.sum(axis=0)
    said_KVC = np.einsum("knv,nc->kvc", votes_KNC, beliefs_NC)
    spread_KV1 = (1 / known_KC.sum(axis=1, keepdims=True))[..., None]
    tables_KCC = np.log((said_KVC + spread_KV1) / (rows_C + 1)) * known_KC[..., None]
    return tables_KCC, np.log((rows_C + 1 / num_classes) / (num_rows + 1))
