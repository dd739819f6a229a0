"""Fixtures that several folders of tests share, and which tests share a process."""

import os

import pytest

from tests.fixtures.ray_token import TOKEN

pytest_plugins = ["tests.fixtures.s3_servers", "tests.fixtures.ray_head"]

# Ray reads these when it is imported, by whichever test is first, and never again.
os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", TOKEN
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # as a session has it


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a head in one process; without `--numprocesses` this says nothing."""
    for item in items:
        if "ray_head" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
