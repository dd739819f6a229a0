"""A row that cannot be used, inside the readers; outside it is a `BadRow`."""


class Unfit(Exception):
    """Why a row cannot be read or stored, as the end of a sentence that begins with its place."""
