"""The base of every configuration model and record: frozen, closed to unknown keys, documented field by field."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A value read from a spec or a record: immutable, and strict about what it may contain."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
