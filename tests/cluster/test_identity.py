"""Identities: the same everywhere for the same facts, another for any other fact."""

import io
import json
import math
import os
import pickle
import subprocess
import sys
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any

import blake3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import Config
from cluster.identity import UnstableValueError, canonical_json, digest_of, identity_of

IN_ANOTHER_PROCESS = """
from cluster.config import Config
from cluster.identity import identity_of

class Codec(Config):
    name: str = "dense"
    options: dict[str, float] = {"zeta": 0.1, "alpha": 1e-5}

names = {"wide", "deep", "vit", "conv", "mlp"}  # iterates in an order that depends on the hash seed
facts = {name: [len(name), Codec()] for name in names}
print(identity_of("label set", 3, facts))
"""

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
FACTS = st.dictionaries(st.text(), VALUES, min_size=1, max_size=5)


class Colour(StrEnum):
    RED = "red"


class Shade(Enum):
    DARK = 1


class Codec(Config):
    name: str
    bits: int = 16


class Loose(Config):
    names: Any


def test_an_identity_is_the_start_of_the_blake3_digest_of_the_canonical_text() -> None:
    text = b'{"facts":{"codec":{"bits":8,"name":"dense"},"rows":3,"views":[0.5,null]},"kind":"teacher","recipe":2}'
    facts = {"views": (0.5, None), "rows": 3, "codec": Codec(name="dense", bits=8)}

    assert identity_of("teacher", 2, facts) == blake3.blake3(text).hexdigest()[:16] == "f59e7b53cc84fd5c"


def test_digests_are_those_published_for_blake3() -> None:
    # The first test vectors of the BLAKE3 team: the empty input, and the bytes 0, 1, 2.
    assert digest_of(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert digest_of(memoryview(bytes([0, 1, 2]))) == "e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f"


def test_identities_are_equal_in_processes_with_different_hash_seeds() -> None:
    def run(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    assert {run("0"), run("1"), run("4242")} == {"9d5b0f1de820d5be"}


@given(facts=FACTS, data=st.data())
@settings(deadline=None)
def test_the_order_of_keys_does_not_matter(facts: dict[str, Any], data: st.DataObject) -> None:
    reordered = dict(data.draw(st.permutations(list(facts.items()))))

    assert identity_of("kind", 1, reordered) == identity_of("kind", 1, facts)


@given(first=FACTS, second=FACTS)
@settings(deadline=None)
def test_identities_are_equal_exactly_if_the_facts_are(first: dict[str, Any], second: dict[str, Any]) -> None:
    # json.dumps tells True from 1 and 1 from 1.0, which == does not.
    same_facts = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)

    assert (identity_of("kind", 1, first) == identity_of("kind", 1, second)) is same_facts


def test_every_fact_the_kind_and_the_recipe_matter() -> None:
    facts = {"weights": "ab" * 32, "classes": ["cat", "dog"], "codec": {"name": "dense", "bits": 16}, "view": None}
    variants = [
        identity_of("label set", 1, facts),
        identity_of("teacher", 1, facts),
        identity_of("label set", 2, facts),
        identity_of("label set", 1, facts | {"weights": "ab" * 31 + "ac"}),
        identity_of("label set", 1, facts | {"classes": ["dog", "cat"]}),
        identity_of("label set", 1, facts | {"codec": {"name": "dense", "bits": 8}}),
        identity_of("label set", 1, facts | {"view": 0}),
        identity_of("label set", 1, facts | {"view": False}),
        identity_of("label set", 1, {key: value for key, value in facts.items() if key != "view"}),
    ]

    assert len(set(variants)) == len(variants)


@given(VALUES)
@settings(deadline=None)
def test_the_canonical_text_says_what_the_value_says(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


def test_models_enums_and_tuples_are_written_as_the_mappings_values_and_lists_they_stand_for() -> None:
    value = {"codec": Codec(name="dense"), "colour": Colour.RED, "shape": (28, 28)}

    assert canonical_json(value) == b'{"codec":{"bits":16,"name":"dense"},"colour":"red","shape":[28,28]}'


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (lambda: 0, "function"),
        (io.BytesIO(), "BytesIO"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ({"a", "b"}, "set"),
        (b"bytes", "bytes"),
        (Decimal("0.1"), "Decimal"),
        (np.int64(3), "int64"),
        (np.zeros(2), "ndarray"),
        (Shade.DARK, "Shade"),
        ({1: "one"}, "dict"),
        (Codec, "ModelMetaclass"),
        (Loose(names={"a", "b"}), "set"),
        (Loose(names=len), "builtin_function_or_method"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_without_a_stable_form_is_refused_with_the_name_of_its_field(value: object, found: str) -> None:
    with pytest.raises(UnstableValueError) as refusal:
        identity_of("teacher", 1, {"rows": 3, "backend": {"options": [0, value]}})

    assert "backend.options[1]" in str(refusal.value)
    assert found in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_the_refusal_survives_a_process_boundary() -> None:
    refusal = UnstableValueError("facts.model", "a value of type function")

    assert str(pickle.loads(pickle.dumps(refusal))) == str(refusal)
