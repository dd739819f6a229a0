"""Which names an object may have: no key leaves the store, and none is turned down by one store and not by another."""

import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from cluster.storage.protocol import BadKeyError, ObjectStore, check_key, check_prefix, is_key

INNER = set(string.ascii_letters + string.digits + "_.-")
FIRST = INNER - set(".-")
MAX_KEY_LENGTH = 512
MAX_NAME_LENGTH = 200

BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "../outside",
    "a/../../outside",
    "a/./b",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\n",
    "a b",
    "a\\b",
    "a%2e%2eb",
    "é",
    ".hidden",
    "a/.hidden",
    "-rf",
    "a/-rf",
    "~",
    "n" * 201,
    "/".join(["n"] * 300),
]


def follows_the_rule(key: str) -> bool:
    return len(key) <= MAX_KEY_LENGTH and all(
        0 < len(name) <= MAX_NAME_LENGTH and name[0] in FIRST and set(name) <= INNER for name in key.split("/")
    )


@pytest.fixture(params=["directory", "s3"])
def untouched_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store") if request.param == "directory" else "s3://never-contacted")


@pytest.mark.parametrize("key", BAD_KEYS)
def test_every_method_refuses_a_bad_key_before_it_touches_the_store(untouched_store: ObjectStore, key: str) -> None:
    for use in (untouched_store.get, untouched_store.exists, untouched_store.delete):
        with pytest.raises(BadKeyError):
            use(key)
    for write in (untouched_store.put, untouched_store.put_if_absent):
        with pytest.raises(BadKeyError):
            write(key, b"")


@pytest.mark.parametrize("prefix", ["a", "/", "../", "a//", "a/../", ".a/", "a\0/", "a\n/"])
def test_a_bad_prefix_is_refused(untouched_store: ObjectStore, prefix: str) -> None:
    with pytest.raises(BadKeyError):
        list(untouched_store.list(prefix))


@given(st.text(alphabet="ab.-_/~\0\n \\é0", max_size=12) | st.text(max_size=12))
@example("n" * MAX_NAME_LENGTH)
@example("n" * (MAX_NAME_LENGTH + 1))
@example("nn/" * 170 + "nn")
@example("nn/" * 170 + "nnn")
def test_a_key_is_accepted_exactly_if_it_follows_the_rule(key: str) -> None:
    assert is_key(key) == follows_the_rule(key)


@given(st.text(alphabet="ab./", max_size=12) | st.text(max_size=12))
def test_no_accepted_key_leaves_the_directory(key: str) -> None:
    root = Path("/some/root")
    if is_key(key):
        assert (root / key).resolve().is_relative_to(root)
        assert (root / key).resolve() == root / key


@given(st.text(alphabet="ab./", max_size=8))
def test_a_prefix_is_nothing_or_a_key_and_a_slash(prefix: str) -> None:
    if prefix == "" or (prefix[-1] == "/" and follows_the_rule(prefix[:-1])):
        assert check_prefix(prefix) == prefix
    else:
        with pytest.raises(BadKeyError):
            check_prefix(prefix)


def test_the_longest_key_fits_into_a_directory(tmp_path: Path) -> None:
    key = "/".join(["n" * MAX_NAME_LENGTH] * 2)
    store = DirectoryStore(tmp_path)
    store.put(key, b"x")

    assert store.get(key) == b"x"


def test_a_refused_key_is_shown_with_the_rule() -> None:
    with pytest.raises(BadKeyError, match=r"'\.\./x' is no key: expected .* names of letters"):
        check_key("../x")
