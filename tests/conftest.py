"""Fixtures that several folders of tests share."""

import os

from tests.fixtures.ray_token import TOKEN

pytest_plugins = ["tests.fixtures.s3_servers", "tests.fixtures.ray_head"]

# Ray reads these when it is imported, by whichever test is first, and never again.
os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", TOKEN
