"""Weights in the store, whoever made them."""

from typing import Annotated

from pydantic import Field

from cluster.config import Config
from cluster.shards.schema import Digest


class StoredWeights(Config):
    """Weights in the store, named by their digest: what a replica loads is what the plan saw."""

    key: str
    digest: Digest
    num_bytes: Annotated[int, Field(ge=1)]
