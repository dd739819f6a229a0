"""Every technique on Fashion-MNIST with 5,000 labels, in one table: the same student, steps and seeds, and teachers.

Where a technique is what cannot be the same (three trainings, several members, other teachers), `catalogue.py` says so.

Each technique is one `coffey run` of `examples/fashion.yaml` with a few keys changed (`catalogue.py`), in one store:
teachers are fitted and asked once, and what was trained before is found again. Every result is a line of `--out`, bad
ones too; what stands there is not run again. `--cost` measures the time of a step and the memory apart. Both end with
the table of all that is known. `gain` is the difference to the same student without teachers, in standard errors of the
two means over the seeds.

    python -m benchmarks.techniques [TECHNIQUE ...] --out FILE [--store URI] [--set KEY=VALUE ...]
    python -m benchmarks.techniques [TECHNIQUE ...] --out FILE --cost [--rounds N]
    python -m benchmarks.techniques --out FILE --table
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.techniques.catalogue import PLAIN, TECHNIQUES
from benchmarks.techniques.cost import costs
from benchmarks.techniques.lines import Cost, Lines
from benchmarks.techniques.runs import Asked, run
from benchmarks.techniques.table import table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("techniques", nargs="*", metavar="TECHNIQUE", help=f"by default all: {', '.join(TECHNIQUES)}")
    parser.add_argument("--out", type=Path, required=True, help="file of results, one JSON object a line")
    parser.add_argument("--store", default="./coffey-store")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cost", action="store_true", help="measure time and memory in place of accuracy")
    parser.add_argument("--rounds", type=int, default=3, help="epochs timed for each technique (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print what is known, and measure nothing")
    options = parser.parse_args()
    if unknown := set(options.techniques) - TECHNIQUES.keys():
        parser.error(f"no technique is called {sorted(unknown)[0]!r}; there are {', '.join(TECHNIQUES)}")
    lines, names = Lines(options.out), options.techniques or list(TECHNIQUES)
    asked = {name: Asked.of(name, options.store, options.overrides) for name in names}
    failed = []
    if options.cost:
        asked = {PLAIN: Asked.of(PLAIN, options.store, options.overrides)} | asked
        for name, cost in costs(asked, rounds=options.rounds).items():
            lines.add(Cost(technique=name, **cost))
    elif not options.table:
        failed = [name for name in names if not _is_done(lines, asked[name])]
    print(table(lines))
    print(*(f"{name}: failed" for name in failed), sep="\n", file=sys.stderr)
    return 1 if failed else 0


def _is_done(lines: Lines, asked: Asked) -> bool:
    """Run what is not in the file yet, and return whether it is there now."""
    known = lines.runs.get(asked.technique)
    if known is None or known.changes != asked.changes:
        try:
            lines.add(run(asked))
        except subprocess.CalledProcessError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
