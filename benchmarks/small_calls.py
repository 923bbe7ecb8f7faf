"""Every public operation of triton_kernels, called once or twice on small ragged inputs: what a sanitizer watches.

    compute-sanitizer --tool memcheck python -m benchmarks.small_calls [--plant]

Lengths and head dims that fill no block, strides with gaps, masks, grouped heads: every mask of a load or store is then
needed. `--plant` launches one more kernel, whose store is out of bounds: a sanitizer that does not report it is blind.
Run it with PYTORCH_NO_CUDA_MEMORY_CACHING=1, so that every tensor is an allocation of its own.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from impls import triton_kernels as kernels

import triton
import triton.language as tl

DEVICE = kernels.DEVICE


@triton.jit
def store_past_the_end_kernel(y_ptr, BLOCK: tl.constexpr):
    tl.store(y_ptr + tl.arange(0, BLOCK), 1.0)


def calls(dtype: torch.dtype) -> dict:
    """{operation: [argument tuples or (arguments, keywords)]}, made on the host and copied: no kernels but ours."""
    generator = torch.Generator().manual_seed(0)
    state = torch.promote_types(dtype, torch.float32)

    def new(*shape, of=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(of).to(DEVICE)

    def gaps(*shape):
        return new(*shape[:-1], 2 * shape[-1])[..., ::2]

    def bools(*shape):
        return (torch.rand(shape, generator=generator) < 0.7).to(DEVICE)

    q, k, v = gaps(2, 4, 37, 24), new(2, 2, 71, 24), gaps(2, 2, 71, 40)
    mask, bias, dout = bools(2, 1, 37, 71), new(2, 4, 37, 71), new(2, 4, 37, 40)
    out, lse = kernels.attention(q, k, v, causal=True)
    m, l, acc = new(2, 37, of=state), new(2, 37, of=state).abs() + 1, new(2, 37, 24, of=state)
    rows, keep = gaps(7, 133), bools(7, 133)
    long = new(2, 65539)                        # rows that no tile holds
    caches = new(2, 2, 90, 24), new(2, 2, 90, 24)
    return {
        "attention": [((q, k, v), dict(causal=True)), ((q, k, v), dict(mask=mask, bias=bias)),
                      ((q, k, v), dict(window=9))],
        "attention_weights": [((q, k), dict(causal=True))],
        "attention_backward": [((q, k, v, out, lse, dout), dict(causal=True)),
                               ((q, k, v, out, lse, dout), dict(mask=mask))],
        "decode": [((new(2, 4, 3, 24), new(2, 2, 3, 24), new(2, 2, 3, 24), *caches,
                     torch.tensor([40, 5], device=DEVICE)), {})],
        "dropout": [((rows, 0.25, 3), {})],
        "gelu": [((rows,), {})],
        "layer_norm": [((rows, new(133), new(133)), {}), ((long, long[0], long[1]), {})],
        "layer_norm_backward": [((rows, new(133), gaps(7, 133)), {}), ((long, long[0], long), {})],
        "log_sum_exp": [((rows,), {}), ((long,), {})],
        "masked_softmax": [((rows, keep), {}), ((long, long > 0), {})],
        "merge": [((m, l, acc, m, l, acc), {})],
        "merge_lse": [((new(2, 37, 24), m, new(2, 37, 24), m), {})],
        "rope": [((gaps(2, 3, 37, 24), torch.arange(37, device=DEVICE)), {})],
        "softmax": [((rows,), {}), ((long,), {})],
        "softmax_backward": [((rows, gaps(7, 133)), {}), ((long, long), {})],
        "split_kv": [((new(2, 4, 1, 24), k, new(2, 2, 71, 24)), dict(n_splits=5))],
    }


def kernels_of_the_package() -> set[str]:
    """The names of all kernels in the package's files."""
    return {name for file in Path(kernels.__file__).parent.glob("*.py")
            for name in re.findall(r"^def (\w+_kernel)\(", file.read_text(), re.M)}


def main(arguments: list[str] | None = None) -> int:
    """Call them all; 2 if the package has an operation that is not called here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_calls", description=__doc__)
    parser.add_argument("--plant", action="store_true", help="only a kernel that stores out of bounds")
    if parser.parse_args(arguments).plant:
        store_past_the_end_kernel[(1,)](torch.zeros(64).to(DEVICE), BLOCK=1024)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return 0
    for dtype in (torch.float32, torch.bfloat16):
        table = calls(dtype)
        missing = sorted(set(kernels.__all__) - set(table))
        if missing:
            print(f"no call of {', '.join(missing)}: add one to calls()", file=sys.stderr)
            return 2
        for variant in (vars(kernels), *kernels.VARIANTS.values()):
            for operation in filter(variant.get, table):
                for positional, named in table[operation]:
                    variant[operation](*positional, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    print(f"called {len(kernels.__all__)} operations in float32 and bfloat16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
