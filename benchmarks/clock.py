"""A clock that shows accumulated device seconds, and rounds in which several contenders take turns on it.

pytest-benchmark reads a timer before and after a round. Its own would add Python, launch latency and the flush of the
cache to the number; `DeviceClock` stands still except while `timed` work runs, and advances by what CUDA events say.
Use it with `benchmark.pedantic` alone: calibration would wait for ever on a clock that stands still.

Without a GPU the host's clock takes its place, so that everything around the measurement can be tried; such a number
says nothing about a kernel.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

FLUSH_BYTES = 256 << 20     # five times the L2 cache of an H100
HEAD_START = 1_000_000      # cycles, about half a millisecond: the launches queue up behind it before the clock starts


class DeviceClock:
    """`timed(function)` makes a function whose every call advances the clock by its seconds on the device."""

    __name__ = "device_clock"

    def __init__(self):
        self.now = 0.0
        self._flush = None

    def __call__(self) -> float:
        return self.now

    def _flush_cache(self):
        """Overwrite the L2 cache: what the last call left there would make this one faster than it is."""
        if self._flush is None:
            self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
        self._flush.zero_()

    def timed(self, function: Callable) -> Callable:
        if not torch.cuda.is_available():
            def on_the_host():
                start = time.perf_counter()
                result = function()
                self.now += time.perf_counter() - start
                return result
            return on_the_host

        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def on_the_device():
            self._flush_cache()
            torch.cuda._sleep(HEAD_START)
            start.record()
            result = function()
            stop.record()
            stop.synchronize()
            self.now += start.elapsed_time(stop) * 1e-3
            return result
        return on_the_device


@dataclass
class Race:
    """What came of it: the seconds of every round and the last result, by contender; and why some did not run."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    results: dict[str, object] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def run(
    clock: DeviceClock, contenders: Mapping[str, Callable], *, ours: str | None, pedantic: Callable | None = None,
    seconds: float = 1.5, least: int = 10, most: int = 50,
) -> Race:
    """Let the contenders take turns, in rotating order, for about `seconds` of device time, `least` to `most` rounds.

    Warm and cold phases of the machine then meet all of them alike. A contender that raises is left out, and says why;
    `ours` raises. `pedantic` (pytest-benchmark's) counts the rounds and times `ours`, the others run in its `setup`.
    """
    race, timed = Race(), {name: clock.timed(function) for name, function in contenders.items()}

    def turn(name):
        before = clock()
        race.results[name] = None       # its memory may be taken again
        race.results[name] = timed[name]()
        return clock() - before

    estimate = 0.0
    for name in list(timed):
        try:
            turn(name)                  # compiles
            estimate += min(turn(name) for _ in range(2))
            race.seconds[name] = []
        except Exception as error:      # whatever a contender may raise, the others shall run
            if name == ours:
                raise
            race.missing[name] = first_line(error)
            race.results.pop(name, None)
            del timed[name]
    rounds = max(least, min(most, int(seconds / max(estimate, 1e-9))))
    order = [name for name in timed if name != ours]

    def others():
        for name in order:
            race.seconds[name].append(turn(name))
        order.append(order.pop(0)) if order else None

    def own():
        race.seconds[ours].append(turn(ours))

    if pedantic is not None:
        pedantic(own, setup=others, rounds=rounds, warmup_rounds=0, iterations=1)
    else:
        for _ in range(rounds):
            others()
            if ours is not None:
                own()
    return race


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, by linear interpolation."""
    ordered = sorted(values)

    def at(share):
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])
    return at(0.25), at(0.5), at(0.75)


def poison_and_repeat(function: Callable, results: dict, name: str) -> bool:
    """Call once more into memory that holds NaN: fill the last result with it, give it back, and call.

    The new result takes the place of the old one in `results`. An element that the kernel does not write is then NaN,
    which the judgement of values sees. Returns whether all of it lies where the poison was: the allocator hands out
    what was freed last, but does not promise to.
    """
    poisoned = set()
    for x in floats(results[name]):
        x.fill_(float("nan"))
        poisoned.add(x.data_ptr())
        del x
    results[name] = None
    results[name] = function()
    return all(x.data_ptr() in poisoned for x in floats(results[name]))


def floats(result) -> list[torch.Tensor]:
    """The floating-point tensors of a result, which may be a tensor or several."""
    return [x for x in (result if isinstance(result, tuple) else (result,)) if x.is_floating_point()]
