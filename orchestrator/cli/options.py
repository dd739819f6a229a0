"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

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
Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The dashboard of the Ray cluster, such as http://127.0.0.1:8265.",
        show_default=False,
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that `submit` printed.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of text; errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
