"""`labels ls`, `labels show`, `labels verify`: what teachers have said, without asking them again."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import DataError
from orchestrator.cli.options import AsJson, StoreUri
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from orchestrator.catalogue import LabelSetSummary, Verification

app = typer.Typer(help="Look at the soft labels in a store.", rich_markup_mode=None)

SetName = Annotated[
    str, typer.Argument(metavar="SET", help="A name that `labels ls` prints, or a teacher.", show_default=False)
]


class LabelsDamagedError(DataError):
    """Some label shards are not what they were."""

    def __init__(self, uri: str, damaged: tuple["Verification", ...]) -> None:
        super().__init__(uri, damaged)
        self.uri, self.damaged = uri, damaged

    def __str__(self) -> str:
        lines = [
            f"\n  {found.name} shard {damage.shard}: {damage.problem}"
            for found in self.damaged
            for damage in found.damages
        ]
        return f"{self.uri}: {len(lines)} damaged label shards:{''.join(lines)}"


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
        ("set", "state", ">shards", ">rows", ">bytes", "dataset"),
        ((it.name, it.state, _shards(it), f"{it.rows:,}", f"{it.num_bytes:,}", it.dataset) for it in found),
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
    print(f"{summary.name}: {summary.state}, {_shards(summary)} shards, {summary.rows:,} rows")
    print(f"{summary.codec}: {columns}")
    statistics = sorted({key for commit in commits for key in commit.statistics})
    print_table(
        (">shard", ">rows", ">bytes", *(f">{key}" for key in statistics), "digest"),
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
def verify(
    store: StoreUri,
    name: Annotated[str | None, typer.Argument(metavar="[SET]", help="One set, or a teacher; by default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every committed label shard and compare it with its record."""
    from cluster.storage.open import open_store
    from orchestrator import catalogue

    place = open_store(store)
    found = [catalogue.verify(place, prefix) for prefix in catalogue.find_label_sets(place, name)]
    if damaged := tuple(it for it in found if it.damages):
        raise LabelsDamagedError(place.uri, damaged)
    if as_json:
        print_json({"sets": found})
        return
    print_table(
        ("set", ">shards", ">rows", "state"), ((it.name, str(it.shards), f"{it.rows:,}", "sound") for it in found)
    )


def _shards(summary: "LabelSetSummary") -> str:
    in_all = summary.shards_in_all
    return str(summary.shards) if in_all in {None, summary.shards} else f"{summary.shards} of {in_all}"
