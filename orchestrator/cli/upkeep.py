"""`labels verify`, `repair` and `gc`: a store is kept in order."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import DataError
from orchestrator.cli.options import (
    AsJson,
    OptionalSetName,
    OptionalSpec,
    OptionalStoreUri,
    Overrides,
    StoreUri,
    seconds,
)
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cluster.shards.garbage import Collection
    from cluster.storage.protocol import ObjectStore
    from orchestrator.catalogue import Verification
    from orchestrator.upkeep import Comparison, Repair, Teachers


class LabelsDamagedError(DataError):
    """Some label shards are not what they were."""

    def __init__(self, uri: str, damaged: tuple["Verification", ...]) -> None:
        super().__init__(uri, damaged)
        self.uri, self.damaged = uri, damaged

    def __str__(self) -> str:
        lines = [
            f"\n  {found.name} {'record' if damage.shard is None else f'shard {damage.shard}'}: {damage.problem}"
            for found in self.damaged
            for damage in found.damages
        ]
        return (
            f"{self.uri}: {len(lines)} damaged label shards:{''.join(lines)}\nRun `coffey labels repair --spec SPEC` "
            f"to label exactly these again now, or `coffey labels repair --store {self.uri}` to leave them to the "
            "next `coffey run`."
        )


class LabelsDifferError(DataError):
    """A teacher says something else today than what is stored of it."""

    def __init__(self, uri: str, different: tuple["Comparison", ...], tolerance: float) -> None:
        super().__init__(uri, different, tolerance)
        self.uri, self.different, self.tolerance = uri, different, tolerance

    def __str__(self) -> str:
        lines = [
            f"\n  {it.name} shard {it.shard}: values differ by up to {it.difference:.2g} of the largest in their row, "
            f"and {it.agreement:.1%} of {it.rows:,} rows have the same first choice"
            for it in self.different
        ]
        return (
            f"{self.uri}: {len(lines)} label shards are sound, but not what their teacher says when it is asked again "
            f"(expected differences of at most {self.tolerance:.2g}):{''.join(lines)}\nSomething that the identity "
            "does not cover has changed: a package that the model imports, a custom operation, or randomness in "
            "evaluation mode. Make the model deterministic, remove the directories of these sets and run the job again."
        )


def verify(
    name: OptionalSetName = None,
    store: OptionalStoreUri = None,
    spec: OptionalSpec = None,
    *,
    overrides: Overrides = None,
    num_rerun: Annotated[
        int,
        typer.Option("--rerun", metavar="N", min=0, help="Ask each teacher of --spec again for N shards of each set."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Read every committed label shard and compare it with its record, and some with their teachers."""
    from orchestrator import catalogue

    if num_rerun and spec is None:
        raise typer.BadParameter("a teacher can only be asked again through its job: give --spec", param_hint="--rerun")
    place, teachers = _opened(store, spec, overrides)
    prefixes = _chosen(place, teachers, name)
    found = [catalogue.verify(place, prefix) for prefix in prefixes]
    if damaged := tuple(it for it in found if it.damages):
        raise LabelsDamagedError(place.uri, damaged)
    comparisons = _rerun(place, teachers, prefixes, num_rerun) if teachers and num_rerun else []
    if as_json:
        print_json({"sets": found, **({"rerun": comparisons} if num_rerun else {})})
        return
    print_table(
        ("set", ">shards", ">rows", "state"), ((it.name, str(it.shards), f"{it.rows:,}", "sound") for it in found)
    )
    _print_comparisons(comparisons)


def repair(
    name: OptionalSetName = None,
    store: OptionalStoreUri = None,
    spec: OptionalSpec = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Label exactly the broken shards again: now with --spec, else in the next `coffey run`. Not while others write."""
    from orchestrator.upkeep import repair as repair_set

    place, teachers = _opened(store, spec, overrides)
    repairs, hopeless = list["Repair"](), None
    for prefix in _chosen(place, teachers, name):
        try:
            repairs.append(repair_set(place, prefix, teachers=teachers))
        except DataError as error:  # the other sets are mended all the same
            hopeless = hopeless or error
    if hopeless is not None and (as_json or not repairs):
        raise hopeless
    if as_json:
        print_json({"sets": repairs})
    else:
        _print_repairs(repairs)
    if hopeless is not None:
        raise hopeless


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
    from cluster.storage.open import open_existing
    from cluster.storage.probe import store_time_s

    grace_s, place = seconds(older_than), open_existing(store)
    collection = collect_garbage(
        place, now_s=store_time_s(place), grace_s=grace_s, even_incomplete=incomplete, is_dry_run=dry_run
    )
    if as_json:
        print_json({"is_dry_run": dry_run, "num_bytes": collection.num_bytes, **dict(collection)})
    else:
        _print_collection(collection, is_dry_run=dry_run)


def _opened(
    store: str | None, spec: Path | None, overrides: Sequence[str] | None
) -> tuple["ObjectStore", "Teachers | None"]:
    """Open the store that was named, or that of the job; with a job, its teachers can be asked."""
    from cluster.storage.open import open_existing, open_store

    if spec is None:
        if store is None:
            raise typer.BadParameter("which store? Give --store, or the --spec of a job", param_hint="--store")
        return open_existing(store), None
    from orchestrator.load import load_spec
    from orchestrator.resolution.resolve import resolve
    from orchestrator.upkeep import Teachers

    job = resolve(load_spec(spec, overrides or ()))
    place = open_store(store or job.spec.store)
    return place, Teachers(job, place)


def _chosen(store: "ObjectStore", teachers: "Teachers | None", name: str | None) -> list[str]:
    """Return the directories of the label sets that are called so; with a job, of its own that exist."""
    from orchestrator.catalogue import called, find_label_sets

    if teachers is None:
        return find_label_sets(store, name)
    return called(name, [prefix for prefix in teachers.records if any(store.list(f"{prefix}/"))], uri=store.uri)


def _rerun(store: "ObjectStore", teachers: "Teachers", prefixes: list[str], num_shards: int) -> list["Comparison"]:
    from orchestrator.upkeep import TOLERANCE, rerun

    seed, comparisons = secrets.randbits(32), list["Comparison"]()
    for prefix in prefixes:
        if teacher := teachers.rerun_of(prefix):
            comparisons += rerun(store, teachers.records[prefix], teacher, num_shards=num_shards, seed=seed)
    if different := tuple(it for it in comparisons if it.differs):
        raise LabelsDifferError(store.uri, different, TOLERANCE)
    return comparisons


def _print_comparisons(comparisons: list["Comparison"]) -> None:
    if comparisons:
        rows = (
            (it.name, str(it.shard), f"{it.rows:,}", f"{it.difference:.2g}", f"{it.agreement:.1%}")
            for it in comparisons
        )
        print_table(("asked again", ">shard", ">rows", ">difference", ">agreement"), rows)


def _print_repairs(repairs: list["Repair"]) -> None:
    needed = [it for it in repairs if it.is_needed]
    print_table(
        ("set", "put back", "labelled anew", "left to the next run", "records"),
        (
            (
                it.name,
                *(", ".join(map(str, numbers)) for numbers in (it.put_back, it.labelled, it.withdrawn)),
                "; ".join(it.records),
            )
            for it in needed
        ),
        empty="Nothing was broken.",
    )
    if any(it.withdrawn for it in needed):
        print("The next `coffey run` of the job computes exactly the shards that were left to it.")


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
