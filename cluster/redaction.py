"""Text without secrets: whatever leaves a process as an error, an event or a report passes through here.

Known are the values of environment variables whose names say that they are secret, passwords in addresses, and the
shapes of well-known credentials.
"""

import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

_HIDDEN = "***"
_SHORTEST = 6
"""Shorter values are words like `true` or `none`, which text is full of."""

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|ACCESS_KEY|API_KEY|PRIVATE", re.IGNORECASE)
_NAME_OF_A_PLACE = re.compile(r"_(PATH|FILE|DIR|URI)$", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s:@'\"\\]*:(?P<password>[^/\s@'\"\\]+)(?=@)")
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\b(?:hf_|gh[oprsu]_|github_pat_|sk-)[A-Za-z0-9_-]{20,}"
    r"|(?<=X-Amz-Signature=)[^&\s'\"\\]+"
    r"|(?<=X-Amz-Credential=)[^&\s'\"\\]+"
    r"|(?<=X-Amz-Security-Token=)[^&\s'\"\\]+"
    r"|(?<=Bearer )[^\s'\"\\]+",
    re.IGNORECASE,
)


def is_secret_name(variable: str) -> bool:
    """Return whether an environment variable of that name holds a credential, and not the place of one."""
    return bool(_SECRET_NAME.search(variable)) and not _NAME_OF_A_PLACE.search(variable)


def redacted(text: str) -> str:
    """Return `text` with `***` for every secret of this process's environment, and for all that looks like one."""
    # The longest first: one secret may begin with another.
    for secret in sorted({form for value in _secrets() for form in _forms(value)}, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _SHAPES.sub(_HIDDEN, _USER_INFO.sub(_HIDDEN, text))


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if is_secret_name(name):
            # A key of several lines may be quoted line by line.
            yield from (part for part in (value, *value.splitlines()) if len(part) >= _SHORTEST)
        for match in _USER_INFO.finditer(value):
            yield from (it for it in (match["password"], unquote(match["password"])) if len(it) >= _SHORTEST)


def _forms(value: str) -> set[str]:
    """Return how a value may stand in text: as it is, and as `repr`, JSON and addresses write it."""
    return {value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe="")}
