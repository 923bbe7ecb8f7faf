"""Offsets of 2**31 elements and more: computed right or refused with the argument's name, never wrapped.

Nothing here is large but the strides. Fresh memory is only reserved until it is touched, so a tensor of a few elements
may span gigabytes; an expanded one has billions of elements and one that is stored. Kernels that no patience suffices
to run to the end run their last program, where offsets are largest.
"""

import re
from functools import cache
from importlib import import_module

import numpy as np
import pytest
import torch

try:    # before triton: decides that the kernels are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

if not triton_kernels.INTERPRETED:
    pytest.skip("the kernels are compiled on this machine: no interpreter is active", allow_module_level=True)

import triton.language as tl

# In elements: one that is a 32-bit number while twice as much is none, and one that is none itself.
STRIDES = (2**30, 2**31 + 2**20)
HALF = torch.float16


def spread(values, dim, stride):
    """The values with neighbours along `dim` that far apart."""
    strides, size = [], 1
    for n in reversed(values.shape):
        strides.insert(0, size)
        size *= n
    strides[dim] = stride
    try:
        reserved = torch.empty(1 + sum((n - 1) * s for n, s in zip(values.shape, strides)), dtype=values.dtype)
    except RuntimeError as error:       # on a machine that reserves no more memory than it has
        pytest.skip(f"{error}")
    return reserved.as_strided(values.shape, strides).copy_(values)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(HALF)


def keep(*shape):
    return normal(*shape) < 0.5


def qkv():
    return {"q": normal(3, 3, 3, 3), "k": normal(3, 3, 3, 3, seed=1), "v": normal(3, 3, 3, 3, seed=2)}


def backward():
    call = qkv() | {"mask": torch.ones(3, 3, 3, 3, dtype=torch.bool)}
    out, lse = triton_kernels.attention(**call)
    return call | {"out": out, "lse": lse.to(HALF), "dout": normal(*out.shape, seed=3)}


def decoding():
    new = {"k_new": normal(3, 3, 3, 3, seed=4), "v_new": normal(3, 3, 3, 3, seed=5)}
    cache = {"k_cache": normal(3, 3, 4, 3, seed=6), "v_cache": normal(3, 3, 4, 3, seed=7)}
    return {"q": normal(3, 3, 3, 3)} | new | cache | {"lens": torch.tensor([0, 1, 0], dtype=torch.int16)}


CALLS = {       # every dim has 3 entries or more, so that the smaller stride is doubled
    "softmax": lambda: {"x": normal(3, 3)},
    "masked_softmax": lambda: {"scores": normal(3, 3), "keep": keep(3, 3)},
    "log_sum_exp": lambda: {"x": normal(3, 3)},
    "softmax_backward": lambda: {"y": normal(3, 3).softmax(-1), "dy": normal(3, 3, seed=1)},
    "layer_norm": lambda: {"x": normal(3, 3), "weight": normal(3, seed=1), "bias": normal(3, seed=2)},
    "layer_norm_backward": lambda: {"x": normal(3, 3), "weight": normal(3, seed=1), "dy": normal(3, 3, seed=2)},
    "gelu": lambda: {"x": normal(3, 3)},
    "dropout": lambda: {"x": normal(3, 3), "p": 0.5, "seed": 1},
    "rope": lambda: {"x": normal(3, 3, 3, 6), "positions": torch.arange(9, dtype=torch.int16).view(3, 3)},
    "merge": lambda: {f"{name}{i}": normal(3, *(3,) * (name == "acc"), seed=i).abs()
                      for i in (1, 2) for name in ("m", "l", "acc")},
    "merge_lse": lambda: {"out1": normal(3, 3), "lse1": normal(3), "out2": normal(3, 3, seed=1), "lse2": normal(3)},
    "attention": lambda: qkv() | {"mask": keep(3, 3, 3, 3), "bias": normal(3, 3, 3, 3, seed=3)},
    "attention_backward": backward,
    "split_kv": qkv,
    "decode": decoding,
}


def places():
    """(operation, argument, dim) for every dim of every tensor."""
    for operation, arguments in CALLS.items():
        for name, x in arguments().items():
            if isinstance(x, torch.Tensor):
                yield from ((operation, name, dim) for dim in range(x.ndim))


def results_of(operation, arguments):
    """What a call returns and what it writes into its caches."""
    returned = getattr(triton_kernels, operation)(**arguments)
    returned = returned if isinstance(returned, tuple) else (returned,)
    return [*returned, *(x.clone() for name, x in arguments.items() if name.endswith("_cache"))]


@cache
def expected_of(operation):
    return results_of(operation, CALLS[operation]())


def test_every_operation_is_called():
    assert set(CALLS) >= set(triton_kernels.__all__)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("operation, argument, dim", [place for place in places() if hasattr(triton_kernels, place[0])])
def test_strides_beyond_32_bits(operation, argument, dim, stride):
    expected, far = expected_of(operation), CALLS[operation]()
    far[argument] = spread(far[argument], dim, stride)
    try:
        found = results_of(operation, far)
    except NotImplementedError as refusal:
        assert argument in str(refusal).replace("'", " ").split(), refusal
    else:
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ----------------------------------------------------------------------------------------------------------- many rows

ROWS = 2**31 + 2**20


@pytest.fixture
def last_program(monkeypatch):
    """Of every launch, only the last program runs; and memory is not touched to be filled."""
    monkeypatch.setattr(np, "ndindex", lambda *sizes: iter([tuple(n - 1 for n in sizes)]))
    monkeypatch.setattr(torch, "zeros", torch.empty)
    monkeypatch.setattr(torch, "full", lambda shape, value, **options: torch.empty(shape, **options))


def endless(*row, n_rows=ROWS):
    """One row, expanded."""
    return torch.tensor([row], dtype=HALF).expand(n_rows, len(row))


def reserved(*shape, last):
    """Untouched memory of that shape, the last elements excepted."""
    try:
        x = torch.empty(shape, dtype=HALF)
    except RuntimeError as error:
        pytest.skip(f"{error}")
    x.view(-1)[-last.numel():] = last.view(-1)
    return x


@pytest.mark.parametrize("operation, rows", [
    ("softmax", {"x": [1.0]}),
    ("masked_softmax", {"scores": [1.0]}),
    ("log_sum_exp", {"x": [1.5]}),
    ("softmax_backward", {"y": [0.5], "dy": [3.0]}),
    ("layer_norm", {"x": [2.0]}),
    ("gelu", {"x": [-1.0]}),
])
def test_more_rows_than_32_bits_count(operation, rows, last_program):
    constants = {"masked_softmax": {"keep": torch.ones(1, 1, dtype=torch.bool)},
                 "layer_norm": {"weight": torch.ones(1, dtype=HALF), "bias": torch.ones(1, dtype=HALF)}}
    function, constants = getattr(triton_kernels, operation), constants.get(operation, {})
    found = function(**{name: endless(*row) for name, row in rows.items()}, **constants)
    expected = function(**{name: endless(*row, n_rows=1) for name, row in rows.items()}, **constants)
    assert expected.all() and (found[-3:] == expected).all()


def test_layer_norm_backward_of_more_rows_than_32_bits_count(last_program):
    layer_norm = import_module("impls.triton_kernels.layer_norm")
    x, dy, weight, n_programs, block = [1.0, 3.0], [1.0, 2.5], torch.ones(2, dtype=HALF), 2**11, 2**16
    n_rows = 2**31 + n_programs * block         # the last program's tiles end with the last row
    dx, parts = torch.empty(n_rows, 2, dtype=HALF), torch.empty(2, n_programs, 2)
    layer_norm.layer_norm_backward_kernel[(1, n_programs)](
        endless(*x, n_rows=n_rows), weight, endless(*dy, n_rows=n_rows), None, dx, *parts, n_rows, 2, (0, 1), 1, (0, 1),
        1.0, ACC=tl.float32, BLOCK_ROWS=block, BLOCK_COLUMNS=2)
    expected = triton_kernels.layer_norm_backward(endless(*x, n_rows=1), weight, endless(*dy, n_rows=1), eps=1.0)[0]
    assert expected.all() and (dx[-3:] == expected).all()


def test_merging_more_rows_than_32_bits_count(last_program):
    last = {"m1": normal(3), "l1": normal(3).abs(), "acc1": normal(3, 1), "m2": normal(3, seed=1),
            "l2": normal(3, seed=1).abs(), "acc2": normal(3, 1, seed=1)}
    states = {name: reserved(ROWS, *x.shape[1:], last=x) for name, x in last.items()}
    found, expected = triton_kernels.merge(**states), triton_kernels.merge(**last)
    assert all(torch.equal(a[-3:], b) for a, b in zip(found, expected, strict=True))


def test_dropout_of_more_elements_than_32_bits_count(last_program):
    last = 1 + normal(3).abs()
    y, mask = triton_kernels.dropout(reserved(ROWS, last=last), 0.0, 1)
    assert torch.equal(y[-3:], last) and mask[-3:].all()


def test_rope_of_more_elements_than_32_bits_count(last_program):
    x = torch.tensor([1.0, 2.0], dtype=HALF).expand(2**16, 2**15 + 1, 1, 2)
    found = triton_kernels.rope(x, torch.tensor([3]))
    assert torch.equal(found[-1, -1], triton_kernels.rope(x[:1, :1], torch.tensor([3]))[0, 0])


WIDE = (300, 200, 150, 256)     # more than 2**31 elements, in heads that fit


def heads(length, seed):
    """One head, expanded to all of WIDE's."""
    return normal(1, 1, length, WIDE[3], seed=seed).expand(*WIDE[:2], length, WIDE[3])


@pytest.mark.parametrize("operation", ["attention", "split_kv", "attention_backward"])
def test_results_of_more_elements_than_32_bits_count(operation, last_program):
    def call(few):
        q, k, v = (x[:few, :few] for x in (heads(WIDE[2], 0), heads(3, 1), heads(3, 2)))
        if operation == "attention_backward":
            lse = torch.tensor(0.5).expand(q.shape[:3])
            return triton_kernels.attention_backward(q, k, v, q, lse, q, scale=0.001)[:1]   # the others sum over all
        return getattr(triton_kernels, operation)(q, k, v, **({"n_splits": 1} if operation == "split_kv" else {}))
    for found, expected in zip(call(WIDE[0]), call(1), strict=True):
        assert torch.equal(found[-1, -1, -1:], expected[-1, -1, -1:])


def test_caches_of_more_elements_than_32_bits_count(last_program):
    def call(few):
        q, k_new, v_new = (x[:few, :few] for x in (heads(1, 0), heads(1, 1), heads(1, 2)))
        caches = [reserved(*q.shape[:2], *WIDE[2:], last=normal(WIDE[2], WIDE[3], seed=i)) for i in (3, 4)]
        out = triton_kernels.decode(q, k_new, v_new, *caches, torch.tensor([100]).expand(len(q)))
        return out, *caches
    for found, expected in zip(call(WIDE[0]), call(1), strict=True):
        assert torch.equal(found[-1, -1], expected[-1, -1])


def expanded(*shape):
    return torch.zeros(1, dtype=HALF).expand(shape)


def of_one_head(length, width=2, *, other=1):
    return {"q": expanded(1, 1, length, width), "k": expanded(1, 1, other, width), "v": expanded(1, 1, other, width)}


def same_heads(batch, n_heads):
    return {name: expanded(batch, n_heads, 1, 2) for name in "qkv"}


def decoding_of(batch, n_heads, n_new=1, n_kv_heads=None):
    shape = batch, n_kv_heads or n_heads, n_new, 1
    caches = {name: expanded(*shape) for name in ("k_new", "v_new", "k_cache", "v_cache")}
    return {"q": expanded(batch, n_heads, n_new, 1)} | caches | {"lens": [0] * batch}


REFUSED = {     # argument that is named: calls that would wrap, or would launch more programs than a GPU does
    "q": [("attention", of_one_head(2**30)), ("attention", of_one_head(2**30 + 1, 1)), ("split_kv", of_one_head(2**30)),
          ("split_kv", {name: expanded(2**8, 2**7, 2**16 if name == "q" else 1, 1) for name in "qkv"}),
          ("attention", same_heads(2**16, 1)), ("attention", same_heads(1, 2**16)),
          ("split_kv", {"q": expanded(1, 2**10, 2**21, 1), "k": expanded(1, 1, 1, 1), "v": expanded(1, 1, 1, 1)}),
          ("decode", decoding_of(1, 2**10, 2**21, 1))],
    "k": [("attention", of_one_head(1, 2, other=2**30)), ("split_kv", same_heads(300, 300)),
          ("decode", decoding_of(300, 300))],
    "n_splits": [("split_kv", of_one_head(1) | {"n_splits": 2**16}),
                 ("split_kv", of_one_head(2**16) | {"n_splits": 2**15})],
}


@pytest.mark.parametrize("argument, operation, arguments", [(argument, *call) for argument, calls in REFUSED.items()
                                                            for call in calls])
def test_what_no_offset_or_grid_reaches_is_refused(argument, operation, arguments):
    with pytest.raises(NotImplementedError) as refusal:
        getattr(triton_kernels, operation)(**arguments)
    assert argument in re.split(r"[^\w]+", str(refusal.value).replace("n splits", "n_splits"))
