"""What the benchmarks share: the clock, the rounds, the machine, and the small file that the report reads.

    python -m pytest benchmarks -p no:xdist --benchmark-only [--measured FILE]

Options: `--measured FILE` stores the rows (machine, cases, quartiles, errors) as JSON after every benchmark, so that
what was measured before an interruption is kept. `--small` runs tiny shapes wherever it is, a trial of the machinery:
its file is marked, and the report leaves it out. `--within SECONDS` starts no benchmark after that.
"""

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from . import clock, machine

CLOCK = clock.DeviceClock()
NO_GPU = "no GPU: these benchmarks time compiled kernels (--small tries the machinery without one)"


def pytest_addoption(parser):
    group = parser.getgroup("benchmarks of kernels")
    group.addoption("--measured", type=Path, default=None, metavar="FILE", help="store what was measured, as JSON")
    group.addoption("--small", action="store_true", help="tiny shapes, on any machine: a trial, not a measurement")
    group.addoption("--within", type=float, default=None, metavar="SECONDS", help="start no benchmark after that time")


class Measured:
    """The rows of this run, and the file they are kept in."""

    def __init__(self, config):
        self.path, self.started = config.getoption("measured"), time.monotonic()
        self.within = config.getoption("within")
        self.content = {"format": 1, "time": datetime.now(UTC).isoformat(timespec="seconds"),
                        "small": config.getoption("small"), "machine": machine.describe(), "rows": []}

    def add(self, row: dict):
        self.content["rows"].append(row)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.with_suffix(".part")
            unfinished.write_text(json.dumps(self.content, indent=1, allow_nan=False) + "\n")
            unfinished.replace(self.path)

    def late(self) -> bool:
        return self.within is not None and time.monotonic() - self.started > self.within


def strict(values: dict) -> dict:
    """inf and nan as strings, which float() reads: JSON has no such numbers."""
    return {key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()}


@pytest.fixture(scope="session")
def measured(pytestconfig):
    return Measured(pytestconfig)


@pytest.fixture(scope="session")
def small(pytestconfig) -> bool:
    return pytestconfig.getoption("small")


@pytest.fixture
def device(small) -> str:
    """Where the tensors of a benchmark live; skips where there is nothing to measure."""
    if not torch.cuda.is_available() and not small:
        pytest.skip(NO_GPU)
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def race(benchmark, measured, device, small):
    """race(group, case, work, unit, contenders, missing, ours, check) measures one case and keeps the row.

    `work` is in FLOP or bytes; `missing` are contenders that could not be prepared, with the reason; `check(race)`
    gives, by name, what is to be kept beside a rate: the budget that its result uses. Ours is repeated into poisoned
    memory before it is checked.
    """

    def measure(*, group, case, work, unit, contenders, ours="triton_kernels", missing=None, check=None, poison=True,
                seconds=1.0):
        row = {"group": group, "case": case, "unit": unit, "work": work, "ours": ours}
        if measured.late():
            measured.add(row | {"not_run": "the time for benchmarks was used up"})
            pytest.skip("not run: the time for benchmarks was used up")
        benchmark._timer = CLOCK
        rounds = dict(seconds=0.0, least=3, most=3) if small else dict(seconds=seconds)
        done = clock.run(CLOCK, contenders, ours=ours, pedantic=benchmark.pedantic, **rounds)
        state = machine.nvidia_smi(machine.STATE)
        poisoned = clock.poison_and_repeat(contenders[ours], done.results, ours) if poison else None
        errors = check(done) if check else {}
        scale = {"TFLOP/s": 1e-12, "TB/s": 1e-12}[unit]
        kept = []
        for name, values in done.seconds.items():
            lower, median, upper = clock.quartiles(values)
            kept.append({"name": name, "rate": work * scale / median if median else 0.0, "rounds": len(values),
                         "seconds": {"lower": lower, "median": median, "upper": upper}} | strict(errors.get(name, {})))
        kept += [{"name": name, "not_available": reason} for name, reason in ((missing or {}) | done.missing).items()]
        measured.add(row | {"contenders": kept, "state": state, "poisoned": poisoned})
        benchmark.extra_info.update(case, rates={c["name"]: c.get("rate") for c in kept}, unit=unit)
        return kept

    return measure


def pytest_collection_modifyitems(config, items):
    """Workers would share the device and time each other."""
    if config.getoption("numprocesses", None) and any("race" in getattr(item, "fixturenames", ()) for item in items):
        raise pytest.UsageError("benchmarks time one device: run them without -n")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["device"] = machine.describe()


def pytest_benchmark_compare_machine_info(config, benchmarksession, machine_info, compared_benchmark):
    here, there = (machine.device_of(info.get("device", {})) for info in (
        machine_info, compared_benchmark["machine_info"]))
    if here != there:
        raise pytest.UsageError(f"measured on another device, so it cannot be compared: {there} there, {here} here "
                                "(name, power limit in W, MIG)")
