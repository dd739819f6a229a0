"""All terms that an objective may have: the one list by which a spec and `coffey techniques` find them."""

from typing import Annotated, get_args

from pydantic import Field

from students.objectives.adaptive_kl import AdaptiveKLTerm
from students.objectives.cc import CCTerm
from students.objectives.cka import CKATerm
from students.objectives.crd import CRDTerm
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.dist import DISTTerm
from students.objectives.dkd import DKDTerm
from students.objectives.jsd import JSDTerm
from students.objectives.kl import KLTerm
from students.objectives.mse import MSETerm
from students.objectives.pkt import PKTTerm
from students.objectives.reverse_kl import ReverseKLTerm
from students.objectives.rkd_angle import RKDAngleTerm
from students.objectives.rkd_distance import RKDDistanceTerm
from students.objectives.skew_kl import SkewKLTerm
from students.objectives.sp import SPTerm
from students.objectives.sparse_kl import SparseKLTerm
from students.objectives.standardised_kl import StandardisedKLTerm
from students.objectives.taid import TAIDTerm
from students.objectives.teacher_free import TeacherFreeTerm
from students.objectives.term import Term
from students.objectives.tvd import TVDTerm

TermConfig = Annotated[
    AdaptiveKLTerm
    | CCTerm
    | CKATerm
    | CRDTerm
    | CrossEntropyTerm
    | DISTTerm
    | DKDTerm
    | JSDTerm
    | KLTerm
    | MSETerm
    | PKTTerm
    | ReverseKLTerm
    | RKDAngleTerm
    | RKDDistanceTerm
    | SkewKLTerm
    | SparseKLTerm
    | SPTerm
    | StandardisedKLTerm
    | TAIDTerm
    | TeacherFreeTerm
    | TVDTerm,
    Field(discriminator="term"),
]
"""One term of an objective, told apart by its `term`."""

TERMS: tuple[type[Term], ...] = get_args(get_args(TermConfig)[0])
