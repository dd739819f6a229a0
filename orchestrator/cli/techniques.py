"""`techniques`: what an objective, the fusion of several teachers and a cohort of students may be made of."""

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson
from orchestrator.cli.output import print_json, print_table


def print_techniques(
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print formulas and options as a page.")] = False,
) -> None:
    """List the terms that an objective may have, the ways to weigh teachers, and those in which students teach."""
    from orchestrator import techniques

    found = techniques.techniques()
    if as_json:
        print_json({"techniques": found})
    elif as_markdown:
        print(techniques.as_markdown(found), end="")
    else:
        print_table(
            ("name", "kind", "family", "what it does"), ((it.name, it.kind, it.family, it.summary) for it in found)
        )
