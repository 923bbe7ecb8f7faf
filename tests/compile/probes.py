"""Kernels that the compile gate must pass or fail, judged by it; printed as JSON for `test_gate.py`."""

import ast
import json
import os
import time
from pathlib import Path

import triton
import triton.language as tl
from impls import triton_kernels

from . import machine_code
from .calls import CALLS, calls
from .record import TARGETS, Launch, kernels, launches

GOOD = {"target": "sm_90", "registers": 128, "spills": 0, "shared": 49152, "matrix": {"HGMMA": 8}, "notes": [],
        "products": [[64, "bf16"]]}  # fmt: skip


@triton.jit
def product(a_ptr, b_ptr, c_ptr, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TWICE: tl.constexpr):
    rows, columns, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    acc, extra = tl.zeros([M, N], tl.float32), tl.zeros([M, N], tl.float32)
    for start in range(0, n, K):
        a = tl.load(a_ptr + rows * n + start + k[None, :])
        b = tl.load(b_ptr + (start + k)[:, None] * N + columns)
        acc = tl.dot(a, b, acc)
        if TWICE:       # two sums of which one waits for the other
            extra = tl.dot(a, b * 2, extra) + tl.exp(acc)
    tl.store(c_ptr + rows * N + columns, acc + extra)


@triton.jit
def no_program(a_ptr):
    tl.store(a_ptr, undefined_name)  # noqa: F821


def launch(kernel, constants: dict) -> Launch:
    """`kernel` with float16 pointers and these constants for sm_90."""
    options = triton.compiler.make_backend(TARGETS["sm_90"]).parse_options({"num_warps": 4, "num_stages": 2})
    types = {name: "*fp32" if name == "c_ptr" else "*fp16" if name.endswith("_ptr") else "i32"
             for name in kernel.arg_names}  # fmt: skip
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name not in constants}
    signature = types | dict.fromkeys(constants, "constexpr")
    paths = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    return Launch("sm_90", kernel, signature, paths, aligned, options, ["probe"])


def judge(work: Launch, **options) -> dict:
    (row,) = machine_code.compile_all([work], **options)
    return row


def with_compiler(compiler, **options) -> dict:
    """The row of a launch whose compiler is that function."""
    usual = triton.compile
    triton.compile = compiler
    try:
        return judge(launch(product, {"M": 64, "N": 64, "K": 64, "TWICE": False}), **options)
    finally:
        triton.compile = usual


def changes() -> list[dict]:
    """The changes of a good row that `test_gate.py` names."""
    tree = ast.parse(Path(__file__).with_name("test_gate.py").read_text())
    (parameters,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call)
                     and getattr(node.func, "attr", "") == "parametrize")  # fmt: skip
    return [change for change, _ in ast.literal_eval(parameters.args[1])]


def main():
    recorded = {x.name for x in launches("sm_90", calls())}
    print(json.dumps({
        "operations without a row": sorted(set(triton_kernels.__all__) - set(CALLS)),
        "kernels without a row": sorted({x.fn.__name__ for x in kernels() if x.fn.__name__.endswith("_kernel")}
                                        - recorded),
        "rows": {
            "good": judge(launch(product, {"M": 64, "N": 64, "K": 64, "TWICE": False})),
            "crowded": judge(launch(product, {"M": 128, "N": 256, "K": 64, "TWICE": True})),
            "no program": judge(launch(no_program, {})),
            "abort": with_compiler(lambda *args, **named: os.abort()),
            "hang": with_compiler(lambda *args, **named: time.sleep(60), seconds=1),
        },
        "rules": {json.dumps(change): machine_code.failures(GOOD | change) for change in changes()},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
