"""What we write as YAML is read alike by parsers of both versions of the language."""

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cluster.yaml_text import dump_yaml

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff\x85\u2028\u2029\ufeff")
TEXTS = st.text(LETTERS, max_size=20) | st.sampled_from(
    ["on", "No", "y", "~", "1e3", "0x1f", "1_0", "::", ".5", "=", "<<"]
)
LEAVES = TEXTS | st.integers() | st.booleans() | st.none()
TREES = st.dictionaries(
    TEXTS, st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8), max_size=5
)


@settings(deadline=None, max_examples=30)
@given(TREES)
@example(
    {"num-cpus": "0", "entrypoint": "coffey run 'a b.yaml' --set store=\"x\"\n", "on": ["yes", "2026-01-01", "1:30"]}
)
def test_parsers_of_both_versions_read_what_was_written(tree: dict[str, object]) -> None:
    text = dump_yaml(tree)
    assert YAML(typ="safe", pure=True).load(text) == tree
    assert yaml.safe_load(text) == tree


def test_keys_stay_in_their_order_and_every_item_has_its_line() -> None:
    assert dump_yaml({"b": "x", "a": ["y", {"k": 1}]}) == 'b: x\na:\n- "y"\n- k: 1\n'
