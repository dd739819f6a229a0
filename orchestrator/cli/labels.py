"""`coffey labels`: what teachers have said, without asking them again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.errors import excerpt
from orchestrator.cli import upkeep
from orchestrator.cli.options import AsJson, OptionalSetName, Quiet, StoreUri
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from orchestrator.catalogue import LabelSetSummary

app = typer.Typer(help="Look at the soft labels in a store, and keep them in order.", rich_markup_mode=None)

SetName = Annotated[
    str, typer.Argument(metavar="SET", help="A name that `labels ls` prints, or a teacher.", show_default=False)
]


@app.command()
def ls(store: StoreUri, as_json: AsJson = False) -> None:
    """List the label sets of a store."""
    from cluster.storage.open import open_store
    from orchestrator.catalogue import label_sets

    found = list(label_sets(open_store(store)))
    if as_json:
        print_json({"sets": found})
        return
    print_table(
        ("set", "state", ">shards", ">rows", ">bytes", "dataset", ">view"),
        ((it.name, it.state, _shards(it), f"{it.rows:,}", f"{it.num_bytes:,}", it.dataset, _view(it)) for it in found),
        empty="No teacher has labelled there yet.",
    )


@app.command()
def show(name: SetName, store: StoreUri, as_json: AsJson = False) -> None:
    """Show one label set, shard by shard."""
    from cluster.storage.open import open_store
    from orchestrator.catalogue import describe

    summary, commits = describe(open_store(store), name)
    if as_json:
        print_json({"set": summary, "commits": commits})
        return
    columns = ", ".join(f"{column.name} {column.dtype}{list(column.shape)}" for column in summary.columns)
    seen = "" if summary.view is None else f", seen in view {summary.view}"
    print(f"{summary.name}: {summary.state}, {_shards(summary)} shards, {summary.rows:,} rows{seen}")
    print(f"{summary.codec}: {columns}")
    if summary.classes:
        print(f"classes: {', '.join(map(excerpt, summary.classes))}")
    statistics = sorted({key for commit in commits for key in commit.statistics})
    print_table(
        (">shard", ">rows", ">bytes", *(f">{excerpt(key)}" for key in statistics), "digest"),
        (
            (
                str(commit.number),
                f"{commit.rows:,}",
                f"{commit.num_bytes:,}",
                *(f"{commit.statistics[key]:.4g}" if key in commit.statistics else "" for key in statistics),
                commit.digest[:16],
            )
            for commit in commits
        ),
    )


@app.command()
def export(
    store: StoreUri,
    name: OptionalSetName = None,
    *,
    to: Annotated[Literal["parquet"], typer.Option(help="The format.")] = "parquet",
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where a directory for each set is made.")] = Path(),
    with_rows: Annotated[
        bool, typer.Option("--with-rows", help="Add the columns `label` and `row` of the data set.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write label sets as files that other programs read, one for each shard that is committed."""
    from cluster.storage.open import open_existing
    from orchestrator.catalogue import find_label_sets
    from orchestrator.exporting import export_set
    from orchestrator.progress import open_progress

    place = open_existing(store)
    with open_progress(quiet=quiet, as_json=as_json) as progress:
        exports = [
            export_set(place, prefix, output, with_rows=with_rows, progress=progress)
            for prefix in find_label_sets(place, name)
        ]
    if as_json:
        print_json({"format": to, "sets": exports})
        return
    print_table(
        ("set", "state", ">files", ">rows", "directory"),
        ((it.name, it.state, str(it.files), f"{it.rows:,}", it.directory) for it in exports),
    )


for command in (upkeep.verify, upkeep.repair, upkeep.gc):
    app.command()(command)


def _view(summary: "LabelSetSummary") -> str:
    return "" if summary.view is None else str(summary.view)


def _shards(summary: "LabelSetSummary") -> str:
    in_all = summary.shards_in_all
    return str(summary.shards) if in_all in {None, summary.shards} else f"{summary.shards} of {in_all}"
