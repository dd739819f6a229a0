"""A manifest is kept in repositories and shown in consoles: what looks like a credential is not written into one."""

import re
from collections.abc import Iterator
from typing import Any

from cluster.errors import SpecError
from cluster.manifests.launcher import TOKEN_FILE
from cluster.redaction import is_secret_name, redacted

_REFERENCES = {"secretName", "ssh_private_key", "ssh_public_key", TOKEN_FILE}
"""Keys whose values say where a secret is, not what it is."""

_LABELS = {"nodeSelector", "labels"}
"""Mappings whose keys are nobody's secrets."""

_SHAPE = re.compile(
    r"://[^/\s]*@|-----BEGIN [A-Z ]*PRIVATE KEY|"
    r"\b[A-Z_]*(SECRET|TOKEN|PASSW|CREDENTIAL|ACCESS_KEY|API_KEY|PRIVATE)[A-Z_]*=[^\s$]"
)


class SecretInManifestError(SpecError):
    """A value of a manifest looks like a credential."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return (
            f"{self.where}: the value looks like a credential, and everybody who sees the manifest would have it. "
            "Expected a reference: cluster.kubernetes.secret or service_account, or the role of a machine."
        )


def refuse_secrets(tree: Any, where: str = "") -> None:
    """Raise `SecretInManifestError` if anything in `tree` looks like a credential; the error says where, not what."""
    for place, name, value in _values(tree, where):
        if _says_secret(value) or (name not in _REFERENCES and is_secret_name(name)):
            raise SecretInManifestError(place)


def _says_secret(value: str) -> bool:
    return bool(_SHAPE.search(value)) or redacted(value) != value


def _values(tree: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Yield where each string stands, what it is called, and the string."""
    match tree:
        case str():
            yield where, where.rpartition(".")[2], tree
        case {"name": str(variable), "value": str(value)} if len(tree) == 2:
            yield f"{where}.{variable}", variable, value
        case dict():
            is_labels = where.rpartition(".")[2] in _LABELS
            for key, item in tree.items():
                if isinstance(item, str):
                    yield f"{where}.{key}", "" if is_labels else key, item
                else:
                    yield from _values(item, f"{where}.{key}")
        case list() | tuple():
            for number, item in enumerate(tree):
                yield from _values(item, f"{where}[{number}]")
        case _:
            return
