"""How figures are written: the page, the terminal and the verdict agree on it."""

_UNKNOWN = "\N{EN DASH}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage: `94.1 %`."""
    return f"{100 * share:.{digits}f} %"


def points(share: float) -> str:
    """Return a share in percent for a column whose head names the unit: `94.10`."""
    return f"{100 * share:.2f}"


def decimals(value: float) -> str:
    """Return a quantity near one: `0.213`."""
    return f"{value:.3f}"


def change(difference: float, digits: int) -> str:
    """Return by how much something is more or less: `+0.20`, `-0.013`, and `0.00` where it is neither."""
    written = f"{difference:+.{digits}f}"
    return written[1:] if float(written) == 0 else written


def count(number: int | None) -> str:
    """Return a number of things: `102,410`, or a dash where it is not known."""
    return _UNKNOWN if number is None else f"{number:,}"


def rate(per_s: float | None) -> str:
    """Return things per second: `9,412`, or one decimal below ten."""
    if per_s is None:
        return _UNKNOWN
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"


def size(num_bytes: int) -> str:
    """Return a number of bytes in the largest binary unit that leaves at least one: `38.2 KiB`."""
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value, unit = num_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a stretch of time: `0.3 s`, `1 min 23 s`, `2 h 05 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ratio(times: float) -> str:
    """Return a factor with two figures at least: `1.3`, `31`, `1,250`."""
    return f"{times:,.0f}" if times >= 10 else f"{times:.1f}"
