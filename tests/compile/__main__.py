"""Compile every kernel in every configuration that is shipped, for every target, and judge the machine code.

    python -m tests.compile [--target sm_90] [--kernel dq_kernel] [--calls 'bf16 D128'] [--workers 2]

prints a table, writes `reports/compile/triton-VERSION.json`, and returns 1 if a row fails.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton

from .calls import calls
from .machine_code import SHARED_LIMITS, compile_all
from .record import TARGETS, launches

FOLDER = Path("reports/compile")
MAX_LISTED = 2


def configuration(row: dict) -> str:
    """Tiles, warps and stages in a few characters: `128x64x128 w8 s2`."""
    numbers = row["configuration"]
    tile = "x".join(str(value) for name, value in numbers.items() if name.startswith("BLOCK_"))
    return f"{tile} w{numbers['num_warps']} s{numbers['num_stages']}"


def line(row: dict) -> str:
    """A row as a line of the table."""
    called = "; ".join(row["calls"][:MAX_LISTED]) + ("; ..." if len(row["calls"]) > MAX_LISTED else "")
    start = f"{row['target']:7} {row['kernel']:24} {configuration(row):22}"
    if "error" not in row:
        matrix = " ".join(f"{count} {name}" for name, count in row["matrix"].items()) or "-"
        start += f"{row['registers']:4} {row['spills']:6} {row['shared']:7}  {matrix:22}"
    return f"{start} {called}" + "".join(f"\n        FAILS {reason}" for reason in row["failures"])


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compile", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this target (repeatable)")
    parser.add_argument("--kernel", default="", help="only kernels whose name has this in it")
    parser.add_argument("--calls", default="", help="only calls whose label has this in it")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="compilers at a time")
    chosen = parser.parse_args(arguments)

    table, started = {label: call for label, call in calls().items() if chosen.calls in label}, time.monotonic()
    work = [x for target in chosen.target or TARGETS for x in launches(target, table) if chosen.kernel in x.name]
    print(f"{'target':7} {'kernel':24} {'tile, warps, stages':22}{'reg':>4} {'spills':>6} {'shared':>7}  "
          f"{'matrix instructions':22} called by")  # fmt: skip
    rows = []
    for row in compile_all(work, workers=chosen.workers):
        rows.append(row)
        print(line(row), flush=True)
    rows.sort(key=lambda row: [launch.calls for launch in work].index(row["calls"]))
    failed = [row for row in rows if row["failures"]]
    seconds = time.monotonic() - started
    print(f"Triton {triton.__version__}: {len(rows)} kernels compiled in {seconds:.0f} s, {len(failed)} fail")
    if failed:
        print("\n".join(["", "Failures:", *map(line, failed)]))
    if not (chosen.target or chosen.kernel or chosen.calls):
        FOLDER.mkdir(parents=True, exist_ok=True)
        content = {"triton": triton.__version__, "torch": torch.__version__, "seconds": round(seconds),
                   "limits": SHARED_LIMITS, "rows": rows}  # fmt: skip
        path = FOLDER / f"triton-{triton.__version__}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(path)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
