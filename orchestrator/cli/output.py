"""What commands print: JSON for programs, plain text and tables for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 240


def print_json(value: Any) -> None:
    """Print models, mappings and sequences as one JSON value."""
    from pydantic_core import to_jsonable_python

    print(json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False, indent=1), flush=True)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "There is nothing.") -> None:
    """Print aligned columns; a title that starts with `>` is aligned to the right. Without rows, print `empty`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = list(rows)
    if not rows:
        print(empty)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title.lstrip(">"), justify="right" if title.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def console() -> "Console":
    """Return the console of standard output; what is printed is text, never markup."""
    from rich.console import Console

    # A pipe has no width: lines are not broken for a program that reads them.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width)
