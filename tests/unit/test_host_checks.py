"""Bad arguments are refused before a kernel starts, with a message that names the argument.

One row a mistake: the operation, what is wrong, the argument that the message must name, and the value put in its
place (a function of the good arguments). Nothing falls back to PyTorch, and nothing is launched.
"""

import re

import pytest
import torch

try:    # before triton: decides that the kernels are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

if not triton_kernels.INTERPRETED:
    pytest.skip("the kernels are compiled on this machine: bad arguments are tried without a GPU",
                allow_module_level=True)

from triton.runtime import interpreter as stock


def f32(*shape):
    return torch.ones(*shape)


def good(operation):
    """Arguments that the operation accepts."""
    q, k, v = f32(2, 4, 3, 8), f32(2, 2, 5, 8), f32(2, 2, 5, 6)
    qkv, out, states = dict(q=q, k=k, v=v), f32(2, 4, 3, 6), f32(2, 4, 3)
    return {
        "softmax": dict(x=f32(3, 5)),
        "masked_softmax": dict(scores=f32(3, 5), keep=torch.ones(3, 5, dtype=torch.bool)),
        "log_sum_exp": dict(x=f32(3, 5)),
        "softmax_backward": dict(y=f32(3, 5), dy=f32(3, 5)),
        "layer_norm": dict(x=f32(3, 5), weight=f32(5), bias=f32(5)),
        "layer_norm_backward": dict(x=f32(3, 5), weight=f32(5), dy=f32(3, 5)),
        "gelu": dict(x=f32(3, 5)),
        "dropout": dict(x=f32(3, 5), p=0.5, seed=1),
        "rope": dict(x=f32(2, 2, 3, 8), positions=torch.arange(3)),
        "merge": dict(m1=states, l1=states, acc1=out, m2=states, l2=states, acc2=out),
        "merge_lse": dict(out1=out, lse1=states, out2=out, lse2=states),
        "attention": qkv | dict(mask=torch.ones(3, 5, dtype=torch.bool), bias=f32(3, 5), window=2, scale=0.5),
        "attention_backward": qkv | dict(out=out, lse=states, dout=out, mask=torch.ones(3, 5, dtype=torch.bool)),
        "split_kv": qkv | dict(n_splits=2),
        "decode": dict(q=q, k_new=f32(2, 2, 3, 8), v_new=f32(2, 2, 3, 6), k_cache=f32(2, 2, 9, 8),
                       v_cache=f32(2, 2, 9, 6), lens=torch.tensor([4, 6])),
    }[operation]


def tensors(operation):
    return [name for name, value in good(operation).items() if isinstance(value, torch.Tensor)]


BOOLEAN = ("keep", "mask")
INTEGER = ("positions", "lens")
ALONE = {"m1", "l1", "acc1", "m2", "l2", "acc2", "lse", "lse1", "lse2", "bias of attention"}    # in their own precision


GROWS = {       # dims that may have other sizes than the rest of the arguments says; "ndim": the number of dims, too
    "attention": {"q": (1, 2), "v": (3,), "mask": ("ndim",), "bias": ("ndim",)},
    "attention_backward": {"mask": ("ndim",)},
    "split_kv": {"q": (1, 2), "v": (3,)},
    "decode": {"q": (1,), "k_cache": (2,), "v_cache": (2,)},
    "layer_norm": {"x": (0, "ndim")},
    "masked_softmax": {"scores": ("ndim",), "keep": ("ndim",)},
    "rope": {"x": (0, 1, 3)},
    "softmax": {"x": (0, 1, "ndim")}, "log_sum_exp": {"x": (0, 1, "ndim")}, "gelu": {"x": (0, 1, "ndim")},
    "dropout": {"x": (0, 1, "ndim")},
}


def mistakes_of_every_tensor():
    """What can be wrong with any tensor: device, dtype, number of dims, size of a dim."""
    for operation in triton_kernels.__all__:
        floats = [name for name in tensors(operation) if name not in BOOLEAN + INTEGER]
        for name in tensors(operation):
            x, grows = good(operation)[name], GROWS.get(operation, {}).get(name, ())
            yield operation, "on another device", name, x.to("meta")
            yield operation, "complex", name, x.to(torch.complex64)
            yield operation, "no tensor", name, "nonsense"
            if name not in INTEGER:
                yield operation, "int32", name, x.to(torch.int32)
            if name in floats:
                yield operation, "float8", name, x.to(torch.float8_e5m2)
                if len(floats) > 1 and name not in ALONE and f"{name} of {operation}" not in ALONE:
                    yield operation, "in another precision", name, x.to(torch.float16)
            if name in BOOLEAN:
                yield operation, "floating point", name, x.to(torch.float32)
            for dim in set(range(x.ndim)) - set(grows):
                size = [n + (i == dim) * 16 for i, n in enumerate(x.shape)]
                yield operation, f"of 16 more entries along dim {dim}", name, torch.ones(size).to(x.dtype)
            if "ndim" not in grows:
                yield operation, "of one dim too many", name, x[None].expand(7, *x.shape)
            if "ndim" not in grows or (name == "x" and operation not in ("gelu", "dropout")):
                yield operation, "a scalar", name, x.flatten()[0]


FURTHER = [
    ("attention", "6 heads beside 4", "q", f32(2, 6, 3, 8)[:, :5]),
    ("attention", "no KV heads", "k", f32(2, 0, 5, 8)),
    ("attention", "head dim 0", "q", f32(2, 4, 3, 0)),
    ("attention", "head dim 257", "q", f32(2, 4, 3, 257)),
    ("attention", "negative", "window", -1),
    ("attention", "zero", "window", 0),
    ("attention", "not whole", "window", 1.5),
    ("attention", "no number", "scale", "nonsense"),
    ("attention_backward", "no number", "scale", "nonsense"),
    ("split_kv", "no number", "scale", "nonsense"),
    ("decode", "no number", "scale", "nonsense"),
    ("split_kv", "zero", "n_splits", 0),
    ("split_kv", "negative", "n_splits", -3),
    ("split_kv", "not whole", "n_splits", 1.5),
    ("split_kv", "more than a grid takes", "n_splits", 65536),
    ("decode", "negative", "lens", torch.tensor([4, -1])),
    ("decode", "beyond the capacity", "lens", torch.tensor([4, 7])),
    ("decode", "not whole", "lens", torch.tensor([4.0, 6.0])),
    ("decode", "boolean", "lens", torch.tensor([True, False])),
    ("decode", "too few", "lens", torch.tensor([4])),
    ("layer_norm", "negative", "eps", -1e-5),
    ("layer_norm_backward", "negative", "eps", -1e-5),
    ("layer_norm", "no number", "eps", "nonsense"),
    ("layer_norm_backward", "no number", "eps", "nonsense"),
    ("dropout", "above 1", "p", 1.5),
    ("dropout", "negative", "p", -0.1),
    ("dropout", "NaN", "p", float("nan")),
    ("dropout", "no number", "seed", "nonsense"),
    ("rope", "odd", "x", f32(2, 2, 3, 7)),
    ("rope", "zero", "base", 0.0),
    ("rope", "infinite", "base", float("inf")),
    ("rope", "no number", "base", "nonsense"),
    ("rope", "boolean", "positions", torch.ones(3, dtype=torch.bool)),
]


MISTAKES = [*mistakes_of_every_tensor(), *FURTHER]


@pytest.mark.parametrize("operation", triton_kernels.__all__)
def test_good_arguments_are_accepted(operation):
    getattr(triton_kernels, operation)(**good(operation))


@pytest.mark.parametrize("operation, what, argument, value", MISTAKES,
                         ids=[f"{operation}({argument}: {what})" for operation, what, argument, _ in MISTAKES])
def test_a_mistake_is_named(operation, what, argument, value, monkeypatch):
    launched = []
    monkeypatch.setattr(stock.GridExecutor, "__call__", lambda *args, **kwargs: launched.append(args))
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as refusal:
        getattr(triton_kernels, operation)(**good(operation) | {argument: value})
    assert not launched
    assert argument in re.split(r"\W+", str(refusal.value))
