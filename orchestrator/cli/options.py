"""Options and arguments that several commands share."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The job, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one value, such as train.epochs=20 or teachers.wide.replicas=2. May be repeated.",
        show_default=False,
    ),
]
StoreUri = Annotated[
    str,
    typer.Option("--store", metavar="URI", help="The store: a directory or s3://bucket/prefix.", show_default=False),
]
OptionalSetName = Annotated[
    str | None, typer.Argument(metavar="[SET]", help="One set, or a teacher; by default all.", show_default=False)
]
OptionalStoreUri = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="The store; by default that of --spec.", show_default=False),
]
OptionalSpec = Annotated[
    Path | None, typer.Option("--spec", metavar="SPEC", help="The job that wrote the labels.", show_default=False)
]
OptionalAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="The dashboard of a Ray cluster, such as http://127.0.0.1:8265; by default RAY_API_SERVER_ADDRESS, unless "
        "a store is named.",
        show_default=False,
    ),
]
PartOfJob = Annotated[
    Literal["teachers", "student"] | None,
    typer.Option(
        "--part",
        help="Do one part: `teachers` up to all labels, or `student` from labels that another run makes.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of text; errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def address_in_environment() -> str | None:
    """Return the dashboard that RAY_API_SERVER_ADDRESS names, if it does."""
    return os.environ.get("RAY_API_SERVER_ADDRESS") or None


def seconds(text: str) -> float:
    """Return the seconds in a duration such as `90m` or `1d`; raises what typer shows as a misused option."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is no duration, such as 90m, 12h or 1d")
    return float(int(match[1]) * _UNITS_S[match[2]])
