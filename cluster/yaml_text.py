"""YAML as we write it: read alike by every parser, of version 1.1 or 1.2."""

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

_WORD = re.compile(r"[A-Za-z./][\w./-]*")
_NOT_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", ".inf", ".nan"}
_NO_FOLDING = 1 << 30


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """Return `tree`, of mappings, sequences and plain values, as text; keys stay in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.Representer = _Representer
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width = _NO_FOLDING
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Quotes all but plain words: the emitter leaves some bare that its own parser reads otherwise, such as `:'`, and
    some that a parser of version 1.1 does, such as `on`.
    """

    def represent_str(self, data: str) -> ScalarNode:
        is_word = _WORD.fullmatch(data) and data.lower() not in _NOT_WORDS
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if is_word else '"')


_Representer.add_representer(str, _Representer.represent_str)
