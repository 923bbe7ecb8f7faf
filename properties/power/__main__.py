"""The kill matrix from the command line.

    python -m properties.power SPEC --base FILE --wrong DIR --placebo DIR [--until-killed] [--impl-dir DIR]
        [--save-known FILE] [--compare]
"""

import argparse
import json
import sys
import time
from pathlib import Path

from .ablating import ablations
from .compare import compared, comparison
from .known import as_text, known_bugs
from .matrix import Places, run
from .verdict import faults, record, summary


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix, write it as JSON; 1 if a suspect survives, a placebo passes or a claim kills nothing."""
    parser = argparse.ArgumentParser(prog="python -m properties.power", description=__doc__.split("\n")[0])
    parser.add_argument("spec", type=Path, help="folder of claims")
    parser.add_argument("--base", type=Path, required=True, help="a right implementation of everything")
    parser.add_argument("--wrong", type=Path, action="append", default=[], help="folder of wrong implementations")
    parser.add_argument("--placebo", type=Path, action="append", default=[], help="folder of placebos")
    parser.add_argument("--impl-dir", type=Path, action="append", default=[],
                        help="judge the wrong implementations of this folder instead")
    parser.add_argument("--until-killed", action="store_true", help="judge a suspect no further once it is killed")
    parser.add_argument("--examples", type=int, default=30, help="examples per claim (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/power.json"), help="where it goes (%(default)s)")
    parser.add_argument("--save-known", type=Path, metavar="FILE",
                        help="write the known bugs, and how claims notice them, for the diagnosis of new kernels")
    parser.add_argument("--compare", action="store_true",
                        help="also judge by four usual gates, and by the budgets on plain arrays")
    options = parser.parse_args(arguments)
    places = Places(options.spec, options.base, tuple(options.impl_dir or options.wrong),
                    () if options.impl_dir else tuple(options.placebo))
    missing = [str(path) for path in (places.spec, places.base, *places.wrong, *places.placebo) if not path.exists()]
    if options.save_known and options.until_killed:
        parser.error("--save-known needs the whole matrix: leave out --until-killed")
    if missing:
        parser.error(f"there is no {', '.join(missing)}")
    start = time.perf_counter()
    matrix = run(places, examples=options.examples, seed=options.seed, until_killed=options.until_killed,
                 jobs=options.jobs, progress=_progress)
    found = record(matrix, places.claims(), places.suspects()[0]) | {"seconds": round(time.perf_counter() - start, 1)}
    if options.impl_dir:                     # a few bugs need not keep every claim busy
        found["claims"] = [c | {"kills_nothing": c["kills_nothing"] or "not asked for"} for c in found["claims"]]
    if options.compare:
        found |= compared(places, seed=options.seed, jobs=options.jobs, progress=_progress)
    if options.save_known:
        found["ablations"] = ablations(places, found, jobs=options.jobs, progress=_progress)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.save_known:
        options.save_known.write_text(as_text(known_bugs(found)), encoding="utf-8")
    wrong = faults(found)
    print(*wrong, summary(found), *([comparison(found)] if options.compare else []), sep="\n")
    print(f"{found['seconds']:g} s; {options.out}")
    return 1 if wrong else 0


def _progress(done: int, of: int) -> None:
    if done % 20 == 0 or done == of:
        print(f"{done} of {of} judges", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
