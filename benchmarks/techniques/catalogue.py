"""The techniques that are compared: each a family, and what it changes in the spec.

Terms stand in two settings. `alone`: with the labels' cross-entropy, as papers compare them; `+ kl`: beside the plain
objective, 0.9 KL and 0.1 cross-entropy. Terms on the student's distribution take the place of KL in it; `dkd` counts on
the labelled rows alone, so it stands beside KL too.
Weights are those of the papers where they fit maps of this size; where two were tried, both are here.

All students take the same steps, but what stands around them differs: `generations` trains three students one after the
other, and a cohort all its members. Specialists have teachers of their own, of which none knows every class. In views
teachers label each row once for every view, and the lone student is the better of one on plain rows and one in views.
`routing` is missing: it needs a column that tells who knows a row, and these data have none. `static` is what plain KL
has.
"""

from dataclasses import dataclass
from typing import Any

Changes = dict[str, Any]

PLAIN = "kl"
KL = {"term": "kl", "weight": 0.9}
LABELS = {"term": "cross_entropy", "weight": 0.1}
STORED = {module: {"pool": 4, "values": "int8"} for module in ("6", "9", "10")} | {"12": {"values": "int8"}}
"""Modules of `wide` whose outputs are stored: three maps (9 lies before its activation) and the last features."""

COMMON: Changes = {
    "student": {"model": "examples.models:SmallCNN", "inputs": {"shape": [1, 28, 28]}},
    "teachers.wide.taps": STORED,
    "train.epochs": 6,
    "train.workers": 1,
    "train.optimizer.lr": 0.004,
    "baseline": {"epochs": [20, 40, 80], "batch_size": 64},
    "export": ["safetensors"],
}
"""What all change in the spec: a student that has maps, and a training short enough to be repeated so often."""


@dataclass(frozen=True)
class Technique:
    """One line of the table."""

    family: str
    changes: Changes
    """Keys of the spec, dotted, and their values."""


def _in_place_of_kl(**term: Any) -> Changes:
    return {"objective": [{"weight": 0.9} | term, LABELS]}


def _alone(*terms: Changes) -> Changes:
    return {"objective": [*terms, {"term": "cross_entropy"}]}


def _beside_kl(*terms: Changes) -> Changes:
    return {"objective": [*terms, KL, LABELS]}


def _fused(**fusion: Any) -> Changes:
    return {f"fusion.{key}": value for key, value in fusion.items()}


def _rising(weight: float, finish: float) -> dict[str, Any]:
    return {"schedule": "linear", "start": 0, "end": weight, "finish": finish}


def _falling(start: float, end: float) -> dict[str, Any]:
    return {"schedule": "cosine", "start": start, "end": end}


RESPONSES: dict[str, Changes] = {
    PLAIN: _in_place_of_kl(term="kl"),
    "kl, T = 4": _in_place_of_kl(term="kl", temperature=4),
    "adaptive_kl": _in_place_of_kl(term="adaptive_kl"),
    "dist": _in_place_of_kl(term="dist", weight=2),
    "dkd": _in_place_of_kl(term="dkd"),
    "dkd + kl": _beside_kl({"term": "dkd", "weight": 0.1}),
    "jsd": _in_place_of_kl(term="jsd"),
    "mse": _in_place_of_kl(term="mse"),
    "mse, weight 0.1": _in_place_of_kl(term="mse", weight=0.1),
    "reverse_kl": _in_place_of_kl(term="reverse_kl"),
    "skew_kl": _in_place_of_kl(term="skew_kl"),
    "standardised_kl": _in_place_of_kl(term="standardised_kl"),
    "standardised_kl, weight 9": _in_place_of_kl(term="standardised_kl", weight=9),
    "taid": _in_place_of_kl(term="taid"),
    "tvd": _in_place_of_kl(term="tvd"),
}

MAPS = {"student": "5", "teacher": "wide:10"}
FLOW = {"student": "3", "teacher": "wide:6", "student_end": "5", "teacher_end": "wide:10"}
LEVELS = {"student": ["3", "5"], "teacher": ["wide:6", "wide:10"]}
FEATURES: dict[str, Changes] = {
    "attention": {"term": "attention", **MAPS},
    "attention, code": {"term": "attention", "variant": "code", "weight": 1000, **MAPS},
    "cwd": {"term": "cwd", "weight": 3, **MAPS},
    "fitnet": {"term": "fitnet", "weight": 1, **MAPS},
    "fitnet, weight 100": {"term": "fitnet", "weight": 100, **MAPS},
    "fsp": {"term": "fsp", "weight": 50, **FLOW},
    "nst": {"term": "nst", "weight": 50, **MAPS},
    "ofd": {"term": "ofd", "student": "4", "teacher": "wide:9"},
    "reviewkd": {"term": "reviewkd", "weight": _rising(1, 0.1), **LEVELS},
    "srrl": {"term": "srrl", "student": "6", "teacher": "wide:12", "head": "wide:14"},
    "vid": {"term": "vid", **MAPS},
}

VECTORS = {"student": "6", "teacher": "wide:12"}
RELATIONS: dict[str, tuple[Changes, ...]] = {
    "cc": ({"term": "cc", "weight": 100, **VECTORS},),
    "cka": ({"term": "cka", **VECTORS},),
    "crd": ({"term": "crd", "weight": 0.8, **VECTORS},),
    "pkt": ({"term": "pkt", "weight": 30_000, **VECTORS},),
    "rkd_angle": ({"term": "rkd_angle", "weight": 50, **VECTORS},),
    "rkd_distance": ({"term": "rkd_distance", "weight": 25, **VECTORS},),
    "rkd, both": (
        {"term": "rkd_distance", "weight": 25, **VECTORS},
        {"term": "rkd_angle", "weight": 50, **VECTORS},
    ),
    "sp": ({"term": "sp", "weight": 3000, **VECTORS},),
}

TEACHERS = ("wide", "deep", "patch")
SEVERAL: dict[str, Changes] = {
    "kl to each teacher": {"objective": [*(KL | {"weight": 0.3, "of": name} for name in TEACHERS), LABELS]},
    "confidence": _fused(weighting={"method": "confidence"}),
    "entropy": _fused(weighting={"method": "entropy"}),
    "gate": _fused(weighting={"method": "gate"}),
    "gate, of inputs": _fused(weighting={"method": "gate", "sees": "inputs"}),
    "gradient": _fused(weighting={"method": "gradient"}),
}

ENSEMBLES: dict[str, Changes] = {
    "not calibrated": _fused(calibrate="none"),
    "calibrated by vectors": _fused(calibrate="vector"),
    "mean_logit": _fused(combine="mean_logit"),
    "vote": _fused(combine="vote"),
    "dawid_skene": _fused(combine="dawid_skene"),
    "stacking": _fused(combine="stacking"),
    "greedy selection": _fused(select="greedy"),
}

SCHEDULES: dict[str, Changes] = {
    "temperature from 4 to 1": _in_place_of_kl(term="kl", temperature=_falling(4, 1)),
    "kl that rises": _in_place_of_kl(term="kl", weight=_rising(0.9, 0.5)),
    "labels that fade": {"objective": [KL, LABELS | {"weight": _falling(1, 0)}]},
}

WIDE = {
    "name": "wide",
    "model": "examples.models:WideCNN",
    "inputs": {"shape": [1, 28, 28]},
    "fit": {"epochs": 20, "batch_size": 64, "optimizer": {"lr": 0.002, "weight_decay": 0.05}},
}
"""One teacher: `sparse_kl` reads what one has stored. The taps of the others have no part in it."""
TOP = {"codec": "topk", "k": 3, "tail_samples": 4}


def _of_one(labels: Changes, term: Changes) -> Changes:
    teachers = {"teachers": [WIDE | {"labels": labels}], "fusion.calibrate": "none", "teachers.wide.taps": {}}
    return teachers | {"objective": [{"weight": 0.9} | term, LABELS]}


ONE: dict[str, Changes] = {
    "kl to `wide` alone": _of_one({"codec": "dense"}, KL),
    "kl to 3 classes, others alike": _of_one(TOP, KL),
} | {
    f"sparse_kl, {tail}": _of_one(TOP, {"term": "sparse_kl", "tail": tail})
    for tail in ("renormalise", "bucket", "uniform", "sampled")
}


def _untaught(*terms: Changes) -> Changes:
    return {"teachers": [], "objective": [*terms]}


HALVES = [{"term": "kl", "weight": 0.5}, {"term": "cross_entropy", "weight": 0.5}]
AVERAGE = {"term": "mean_teacher", "weight": _rising(30, 0.2), "decay": 0.99, "export": "average"}
SELF: dict[str, Changes] = {
    "teacher_free": _untaught({"term": "teacher_free", "weight": 0.5}, {"term": "cross_entropy", "weight": 0.5}),
    "mean_teacher": _untaught({"term": "cross_entropy"}, AVERAGE),
    "own_teacher": _untaught({"term": "own_teacher", "exits": ["1", "3"], "features": "6"}),
    "generations": _untaught({"term": "cross_entropy"}) | {"generations": {"count": 3, "objective": HALVES}},
    "generations + kl": {"generations": {"count": 3, "objective": HALVES}},
}


def _together(**cohort: Any) -> Changes:
    return _untaught({"term": "cross_entropy"}) | {"cohort": cohort}


ONLINE: dict[str, Changes] = {
    "dml": _together(method="dml", members=2),
    "dml, 4 members": _together(method="dml", members=4),
    **{
        f"kdcl, {variant}": _together(method="kdcl", variant=variant, members=3)
        for variant in ("naive", "linear", "min_logit", "general")
    },
    "one": _together(method="one", shared=["0", "1", "2", "3"], weight=_rising(1, 0.2)),
    "codistillation": _together(method="codistillation", members=2),
    "dml + kl": {"cohort": {"method": "dml", "members": 2}},
    "kdcl, general + kl": {"cohort": {"method": "kdcl", "variant": "general", "members": 3}},
}

KNOWN = {
    "tops": ("WideCNN", ["T-shirt/top", "Pullover", "Dress", "Coat", "Shirt"]),
    "shoes": ("DeepCNN", ["Sandal", "Sneaker", "Ankle boot"]),
    "others": ("PatchCNN", ["Trouser", "Bag"]),
}
"""Models of the specialists, and what each knows; no class twice."""


def _by_specialists(**changes: Any) -> Changes:
    teachers = [
        WIDE
        | {"name": name, "model": f"examples.models:{model}", "arguments": {"classes": len(known)}, "classes": known}
        for name, (model, known) in KNOWN.items()
    ]
    return {"teachers": teachers, "fusion.combine": "stacking"} | changes


RESTRICTED = [{"term": "restricted_kl", "of": name} for name in KNOWN]
SPECIALISTS: dict[str, Changes] = {
    "stacked specialists": _by_specialists(),
    "restricted_kl": _by_specialists(**_alone(*RESTRICTED)),
    "restricted_kl, trust: all": _by_specialists(**_alone(*(term | {"trust": "all"} for term in RESTRICTED))),
    "restricted_kl + kl": _by_specialists(**_beside_kl(*RESTRICTED)),
}


def _seen(**views: Any) -> Changes:
    return {"data.views": views, "teachers.wide.taps": {}}


CROP = {"augment": [{"kind": "crop", "padding": 2}]}
VIEWS: dict[str, Changes] = {
    "crop": _seen(**CROP),
    "crop, plain first": _seen(plain_first=True, **CROP),
    "mild zoom and noise": _seen(augment=[{"kind": "zoom", "least": 0.9}, {"kind": "noise", "std": 8}]),
    "mixup": _seen(mixup=0.2),
    "cutmix": _seen(cutmix=1.0),
    "crop and mixup": _seen(mixup=0.2, **CROP),
}

TECHNIQUES: dict[str, Technique] = {
    name: Technique(family, changes)
    for family, entries in {
        "response": RESPONSES,
        "feature": {name: _alone(term) for name, term in FEATURES.items()},
        "relation": {name: _alone(*terms) for name, terms in RELATIONS.items()},
        "several teachers": SEVERAL,
        "ensemble": ENSEMBLES,
        "schedule": SCHEDULES,
        "self": SELF,
        "online": ONLINE,
        "specialists": SPECIALISTS,
        "views": VIEWS,
        "sparse labels of one teacher": ONE,
        "feature, beside kl": {f"{name} + kl": _beside_kl(term) for name, term in FEATURES.items()},
        "relation, beside kl": {f"{name} + kl": _beside_kl(*terms) for name, terms in RELATIONS.items()},
    }.items()
    for name, changes in entries.items()
}
"""By name, in the order in which they are run."""
