"""Ways through a tree: what stands at a path, where, under which name, and how to spell it differently."""

from collections.abc import Sequence

from orchestrator.specfile.tree import Entries, Entry, Items, Node, Place, Scalar

Key = str | int
"""A key of a mapping, or the index of an item of a list."""


def node_at(node: Node | None, path: Sequence[Key]) -> Node | None:
    """Return what stands at `path`, or None."""
    for step in path:
        match node:
            case Entries() if step in node.entries:
                node = node.entries[str(step)].node
            case Items() if isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            case _:
                return None
    return node


def place_at(tree: Node, path: Sequence[Key]) -> Place:
    """Return where the key at `path` stands; for one that is missing, where the mapping stands that lacks it."""
    place, node = tree.place, tree
    for step in path:
        match node:
            case Entries() if step in node.entries:
                place, node = node.entries[str(step)].place, node.entries[str(step)].node
            case Items() if isinstance(step, int) and step < len(node.items):
                node = node.items[step]
                place = node.place
            case _:
                return place
    # The value of an override stands under a key of the file, but is not what the file says.
    return node.place if node.place.line == 0 else place


def dotted(tree: Node, path: Sequence[Key]) -> str:
    """Return the key as `--set` takes it: items of a list by their name, if they have one."""
    return ".".join(_step_name(tree, path[: depth + 1]) for depth in range(len(path)))


def name_of(node: Node | None) -> str | None:
    """Return the `name` of an item of a list, if it has one."""
    if isinstance(node, Entries) and (entry := node.entries.get("name")) and isinstance(entry.node, Scalar):
        return str(entry.node.value)
    return None


def respelled(node: Node, path: Sequence[Key], key: str | None) -> Node:
    """Return `node` with the last key of `path` replaced by `key`, or removed if that is None or there already."""
    step, rest = path[0], path[1:]
    if isinstance(node, Items):
        index = int(step)
        item = respelled(node.items[index], rest, key)
        return Items(node.place, (*node.items[:index], item, *node.items[index + 1 :]))
    assert isinstance(node, Entries), "a path leads through lists and mappings"  # noqa: S101
    entry = node.entries[str(step)]
    if rest:
        return Entries(node.place, {**node.entries, str(step): Entry(entry.place, respelled(entry.node, rest, key))})
    kept = {name: other for name, other in node.entries.items() if name != step}
    return Entries(node.place, kept if key is None or key in kept else {**kept, key: entry})


def _step_name(tree: Node, path: Sequence[Key]) -> str:
    name = name_of(node_at(tree, path)) if isinstance(path[-1], int) else None
    return name or str(path[-1])
