"""`labels gc`: a store is kept in order."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, StoreUri, seconds
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cluster.shards.garbage import Collection


def gc(
    store: StoreUri,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Remove only what is older, by the store's clock: 90m, 12h, 1d.")
    ] = "1d",
    incomplete: Annotated[
        bool,
        typer.Option("--incomplete", help="Also from label sets that lack shards. Only while no job labels there!"),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what killed processes left behind and nobody can need any more."""
    from cluster.shards.garbage import collect_garbage
    from cluster.storage.open import open_store
    from cluster.storage.probe import store_time_s

    grace_s, place = seconds(older_than), open_store(store)
    collection = collect_garbage(
        place, now_s=store_time_s(place), grace_s=grace_s, even_incomplete=incomplete, is_dry_run=dry_run
    )
    if as_json:
        print_json({"is_dry_run": dry_run, "num_bytes": collection.num_bytes, **dict(collection)})
    else:
        _print_collection(collection, is_dry_run=dry_run)


def _print_collection(collection: "Collection", *, is_dry_run: bool) -> None:
    would = "would be removed" if is_dry_run else "removed"
    print_table(
        (would, ">bytes", "object"),
        ((garbage.kind, f"{garbage.num_bytes:,}", garbage.key) for garbage in collection.removed),
        empty="There is no garbage.",
    )
    if collection.removed:
        print(f"{len(collection.removed):,} objects of {collection.num_bytes:,} bytes {would}.")
    for kept in collection.kept:
        print(f"Kept: {kept.objects:,} objects of {kept.num_bytes:,} bytes in {kept.labels}: {kept.reason}.")
