"""Which tiles of attention are fastest on this device: the shipped ones and alternatives, taking turns.

    python -m benchmarks.on_gpu --configs            or  python -m benchmarks.configs [--tokens 8192]

Head dims 64 and 128, full and causal, forward and backward, in bfloat16 with 64 query heads on 8 KV heads. Compiling is
most of the time, so all tiles are first compiled by several processes at short lengths, where the same code results;
Triton's cache on disk hands it over. A tile that does not compile or launch (shared memory, registers) says so. Results
are compared with those of the shipped tile. The table is printed and stored in reports/gpu/configs.json; what to change
then is `block_sizes` in attention.py or `_block_sizes` in backward.py.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from impls import triton_kernels as kernels

from . import clock, machine
from .test_attention import difference, flops

ROOT = Path(__file__).parents[1]
SHIPPED = "as shipped"
# module, function, and which kernel's tile it is where the function gives several
WHERE = {"forward": ("attention", "block_sizes", 0), "backward, dq": ("backward", "_block_sizes", 0),
         "backward, dk and dv": ("backward", "_block_sizes", 1)}
# (BLOCK_M, BLOCK_N, num_warps, num_stages)
BACKWARD = [(64, 64, 8, 1), (64, 64, 8, 2), (64, 64, 8, 3), (64, 64, 4, 2), (32, 64, 4, 2), (64, 32, 4, 2),
            (32, 128, 8, 2), (128, 32, 8, 2), (64, 128, 8, 2), (128, 64, 8, 2), (128, 128, 8, 2), (32, 32, 4, 2)]
TILES = {
    "forward": [(128, 64, 8, 2), (128, 64, 8, 3), (128, 64, 8, 4), (128, 128, 8, 2), (128, 128, 8, 3), (128, 32, 8, 3),
                (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 8, 2), (128, 64, 4, 3), (256, 64, 8, 2)],
    "backward, dq": BACKWARD, "backward, dk and dv": BACKWARD,
}


def in_words(tile) -> str:
    return SHIPPED if tile is None else "{} x {}, {} warps, {} stages".format(*tile)


@contextmanager
def tiled(which: str, tile):
    """The kernels with another tile in the place of what `block_sizes` says; None changes nothing."""
    module_name, function_name, place = WHERE[which]
    module = importlib.import_module(f"{kernels.__name__}.{module_name}")
    if not hasattr(module, function_name):
        raise AttributeError(f"{module.__name__} has no {function_name} any more: adapt WHERE in {__file__}")
    shipped = getattr(module, function_name)

    def chosen(*args, **named):
        names = dict(zip(("BLOCK_M", "BLOCK_N", "num_warps", "num_stages"), tile))
        return _replaced(shipped(*args, **named), names, place)
    if tile is not None:
        setattr(module, function_name, chosen)
    try:
        yield
    finally:
        setattr(module, function_name, shipped)


def _replaced(answer, names, place):
    """The answer of block_sizes, with these entries replaced: a dict of launch arguments, or one for each kernel."""
    if isinstance(answer, tuple):
        return tuple(_replaced(one, names, 0) if i == place else one for i, one in enumerate(answer))
    if isinstance(answer, dict) and "BLOCK_M" in answer:
        return answer | names
    raise TypeError(f"block sizes are no dict with BLOCK_M: {answer!r}; adapt {__file__}")


def problem(which, head_dim, causal, tokens, *, heads=(64, 8)):
    """A call that runs the kernels, and its FLOP."""
    generator = torch.Generator(kernels.DEVICE).manual_seed(0)
    q, k, v, dout = (torch.randn(1, h, tokens, head_dim, generator=generator, device=kernels.DEVICE,
                                 dtype=torch.bfloat16) for h in (heads[0], heads[1], heads[1], heads[0]))
    work = flops(heads[0], tokens, head_dim, causal)
    if which == "forward":
        return lambda: kernels.attention(q, k, v, causal=causal), work
    out, lse = kernels.attention(q, k, v, causal=causal)
    return lambda: kernels.attention_backward(q, k, v, out, lse, dout, causal=causal), work * 5 // 2


def compile_one(job) -> None:
    """Compile a tile where nobody waits for it; errors are met, and told, when it is timed."""
    which, head_dim, causal, tile, heads = job
    try:
        with tiled(which, tile):
            problem(which, head_dim, causal, 256, heads=heads)[0]()
    except Exception:       # noqa: S110
        pass


def sweep(which, head_dim, causal, tokens, tiles, *, heads, rounds) -> list[dict]:
    """One row a tile, the fastest first."""
    call, work = problem(which, head_dim, causal, tokens, heads=heads)

    def with_tile(tile):
        def run():
            with tiled(which, tile):
                return call()
        return run

    timed = clock.DeviceClock()
    race = clock.run(timed, {in_words(tile): with_tile(tile) for tile in (None, *tiles)}, ours=None, **rounds)
    if SHIPPED not in race.results:
        raise RuntimeError(f"the shipped tile does not run: {race.missing[SHIPPED]}")
    rows, about = [], {"which": which, "head_dim": head_dim, "causal": causal, "tokens": tokens}
    for name, seconds in race.seconds.items():
        pairs = zip(race.results[name], race.results[SHIPPED])
        rows.append(about | {"tile": name, "tflops": work / clock.quartiles(seconds)[1] * 1e-12, "rounds": len(seconds),
                             "differs": max(difference(a, b) for a, b in pairs)})
    return sorted(rows, key=lambda row: -row["tflops"]) + [
        about | {"tile": name, "not_available": reason} for name, reason in race.missing.items()]


def table(rows) -> str:
    """One case: every tile, its TFLOP/s, its ratio to the shipped one."""
    about = rows[0]
    shipped = next(row["tflops"] for row in rows if row["tile"] == SHIPPED)
    lines = [f"\n{about['which']} {'causal' if about['causal'] else 'full'} D {about['head_dim']}, "
             f"{about['tokens']} tokens", f"{'tile':<34}{'TFLOP/s':>9}{'ratio':>8}{'differs':>10}"]
    for row in rows:
        if "tflops" in row:
            ratio = row["tflops"] / shipped
            lines.append(f"{row['tile']:<34}{row['tflops']:>9.1f}{ratio:>8.2f}{row['differs']:>10.1e}")
        else:
            lines.append(f"{row['tile']:<34}  {row['not_available'][:80]}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Sweep and print; 1 without a GPU (--small runs two tiles anywhere)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.configs", description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=8192, help="length of the sequence (%(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="begin no case after that (%(default)s)")
    parser.add_argument("--small", action="store_true", help="two tiles at 64 tokens: tries this command")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "gpu" / "configs.json", metavar="FILE")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.small:
        print("no GPU: there is nothing to tune here", file=sys.stderr)
        return 1
    start, rows = time.monotonic(), []
    tokens, heads = (64, (2, 1)) if options.small else (options.tokens, (64, 8))
    tiles = {which: [(32, 32, 4, 2)] for which in TILES} if options.small else TILES
    rounds = dict(seconds=0.0, least=2, most=2) if options.small else dict(seconds=1.5, least=5, most=30)
    cases = [(which, d, causal) for which in TILES for d in (128, 64) for causal in (False, True)]
    cases = [cases[0], cases[5], cases[11]] if options.small else cases
    if not options.small:
        jobs = [(*case, tile, heads) for case in cases for tile in tiles[case[0]]]
        with multiprocessing.get_context("spawn").Pool(min(8, os.cpu_count() or 1)) as pool:
            try:
                pool.map_async(compile_one, jobs, chunksize=1).get(timeout=0.6 * options.seconds)
            except multiprocessing.TimeoutError:        # or a tile ended its process
                print("not every tile was compiled beforehand", file=sys.stderr)
    for case in cases:
        if time.monotonic() - start > options.seconds:
            print(f"\n{case}: not run, the time was used up")
            continue
        found = sweep(*case, tokens, tiles[case[0]], heads=heads, rounds=rounds)
        rows += found
        print(table(found), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine.describe(), "small": options.small, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
