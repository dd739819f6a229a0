"""All terms that an objective may have: the one list by which a spec and `coffey techniques` find them."""

from typing import Annotated, get_args

from pydantic import Field

from students.objectives.adaptive_kl import AdaptiveKLTerm
from students.objectives.attention import AttentionTerm
from students.objectives.cc import CCTerm
from students.objectives.cka import CKATerm
from students.objectives.crd import CRDTerm
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.cwd import CWDTerm
from students.objectives.dist import DISTTerm
from students.objectives.dkd import DKDTerm
from students.objectives.fitnet import FitNetTerm
from students.objectives.fsp import FSPTerm
from students.objectives.jsd import JSDTerm
from students.objectives.kl import KLTerm
from students.objectives.mean_teacher import MeanTeacherTerm
from students.objectives.mse import MSETerm
from students.objectives.nst import NSTTerm
from students.objectives.ofd import OFDTerm
from students.objectives.own_teacher import OwnTeacherTerm
from students.objectives.pkt import PKTTerm
from students.objectives.restricted_kl import RestrictedKLTerm
from students.objectives.reverse_kl import ReverseKLTerm
from students.objectives.reviewkd import ReviewKDTerm
from students.objectives.rkd_angle import RKDAngleTerm
from students.objectives.rkd_distance import RKDDistanceTerm
from students.objectives.skew_kl import SkewKLTerm
from students.objectives.sp import SPTerm
from students.objectives.sparse_kl import SparseKLTerm
from students.objectives.srrl import SRRLTerm
from students.objectives.standardised_kl import StandardisedKLTerm
from students.objectives.taid import TAIDTerm
from students.objectives.teacher_free import TeacherFreeTerm
from students.objectives.term import Term
from students.objectives.tvd import TVDTerm
from students.objectives.vid import VIDTerm

TermConfig = Annotated[
    AdaptiveKLTerm
    | AttentionTerm
    | CCTerm
    | CKATerm
    | CRDTerm
    | CrossEntropyTerm
    | CWDTerm
    | DISTTerm
    | DKDTerm
    | FitNetTerm
    | FSPTerm
    | JSDTerm
    | KLTerm
    | MeanTeacherTerm
    | MSETerm
    | NSTTerm
    | OFDTerm
    | OwnTeacherTerm
    | PKTTerm
    | RestrictedKLTerm
    | ReverseKLTerm
    | ReviewKDTerm
    | RKDAngleTerm
    | RKDDistanceTerm
    | SkewKLTerm
    | SparseKLTerm
    | SPTerm
    | SRRLTerm
    | StandardisedKLTerm
    | TAIDTerm
    | TeacherFreeTerm
    | TVDTerm
    | VIDTerm,
    Field(discriminator="term"),
]
"""One term of an objective, told apart by its `term`."""

TERMS: tuple[type[Term], ...] = get_args(get_args(TermConfig)[0])
