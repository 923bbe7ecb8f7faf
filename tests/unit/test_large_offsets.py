"""Offsets of 2**31 elements and more: computed right or refused with the argument's name, never wrapped.

Nothing here is large but the strides. Fresh memory is only reserved until it is touched, so a tensor of a few elements
may span gigabytes; an expanded one has billions of elements and one that is stored. Kernels that no patience suffices
to run to the end run their last program, where offsets are largest.
"""

from functools import cache

import pytest
import torch

try:    # before triton: decides that the kernels are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

if not triton_kernels.INTERPRETED:
    pytest.skip("the kernels are compiled on this machine: no interpreter is active", allow_module_level=True)

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
