"""Rebuild the report from event files.

    python -m properties.report [--events DIR] [--out DIR] [--measured DIR] [--known FILE]

The kill matrix is read from power.json in the folder of the pages.
"""

import argparse
import sys
from pathlib import Path

from .pages import write
from .schema import read_events
from .state import fold


def main(arguments: list[str] | None = None) -> int:
    """Write the pages and print their paths. 0 whatever the verdicts are (it is a report), 2 without any event."""
    parser = argparse.ArgumentParser(prog="python -m properties.report", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=Path, default=Path("reports/events"), help="folder of *.jsonl (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="where the pages go (%(default)s)")
    parser.add_argument("--measured", type=Path, default=Path("benchmarks/measured"), metavar="DIR",
                        help="folder of what was measured on GPUs (%(default)s)")
    parser.add_argument("--known", type=Path, default=Path("impls/wrong/known.json"), metavar="FILE",
                        help="known bugs, for the diagnosis of what is red (%(default)s, if it is there)")
    options = parser.parse_args(arguments)
    if options.known != parser.get_default("known") and not options.known.is_file():
        parser.error(f"there is no file {options.known}")
    records, problems = read_events(options.events)
    if not records:
        found = f"; {len(problems)} lines could not be used, first: {problems[0]['message']}" if problems else ""
        print(
            f"There are no events in {options.events}{found}. Run the checks first (tox, or pytest spec), or name the "
            "folder with --events.",
            file=sys.stderr,
        )
        return 2
    for path in write(fold(records, problems), options.out, measured=options.measured, known=options.known):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
