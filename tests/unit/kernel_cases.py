"""Calls of every operation of triton_kernels in which a mask, a stride or a program id matters, and their judge.

Lengths and head dims are no multiples of a block or powers of two, tensors lie in gappy or transposed memory between
NaNs, batch and head counts differ, every kernel runs in more than one program, and what nobody may read holds NaN.
Rows are too long for a tile where a case makes the tile small.
"""

import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch

from impls import triton_kernels
from properties.calls import Implementation
from properties.memory import Laid, Layout, laid
from properties.operations import OPERATIONS
from properties.subjects import describe
from properties.trial import Raised, Trial

GAPS = Layout("gaps after every row", row_gap=5)
SWAPPED = Layout("last two dims swapped in memory", swap=(-1, -2))
HEADS_INSIDE = Layout("heads inside (B, L, H, D)", swap=(-3, -2))
NAN, INF = float("nan"), float("inf")
JUNK = 1e30     # where NaN could not be compared afterwards

CASES, SMALL = {}, {}


def case(operation, *, variant=None, small=None):
    """Register a function that returns the arguments of one call of `operation`, from a random generator and perhaps
    `junk`: what to put where nobody may read. `variant` names an entry of the package's VARIANTS; `small` is a constant
    of one of its modules and the number of bytes that it is during the call."""
    def register(make):
        name = make.__name__ if variant is None else f"{variant}_{make.__name__}"
        CASES[name] = variant, operation, make
        if small is not None:
            SMALL[name] = small
        return make
    return register


def normal(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape))


def coin(rng, *shape):
    return torch.from_numpy(rng.random(shape) < 0.7)


@case("softmax")
def softmax_of_rows_with_gaps(rng):
    return dict(x=laid(normal(rng, 5, 13), GAPS))


@case("softmax")
def softmax_of_columns(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED))


@case("softmax")
def softmax_in_several_programs(rng):
    return dict(x=normal(rng, 7, 33_000))


@case("masked_softmax")
def masked_softmax_beside_nan(rng, junk):
    keep, scores = coin(rng, 5, 13), normal(rng, 5, 13)
    return dict(scores=laid(torch.where(keep, scores, junk), GAPS), keep=laid(keep, SWAPPED))


@case("log_sum_exp")
def log_sum_exp_of_columns(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED))


@case("log_sum_exp")
def log_sum_exp_in_several_programs(rng):
    return dict(x=normal(rng, 7, 33_000))


@case("softmax_backward")
def softmax_backward_of_two_layouts(rng):
    return dict(y=laid(normal(rng, 5, 13).softmax(-1), GAPS), dy=laid(normal(rng, 5, 13), SWAPPED))


@case("softmax_backward")
def softmax_backward_in_several_programs(rng):
    return dict(y=normal(rng, 7, 33_000).softmax(-1), dy=normal(rng, 7, 33_000))


@case("softmax", small=("softmax.TILE", 16))
def softmax_of_long_rows(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED))


@case("masked_softmax", small=("softmax.TILE", 16))
def masked_softmax_of_long_rows(rng, junk):
    keep, scores = coin(rng, 5, 13), normal(rng, 5, 13)
    keep[1], keep[2, :8] = False, False
    return dict(scores=laid(torch.where(keep, scores, junk), GAPS), keep=laid(keep, SWAPPED))


@case("log_sum_exp", small=("softmax.TILE", 16))
def log_sum_exp_of_long_rows(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED))


@case("softmax_backward", small=("softmax.TILE", 16))
def softmax_backward_of_long_rows(rng):
    return dict(y=laid(normal(rng, 5, 13).softmax(-1), GAPS), dy=laid(normal(rng, 5, 13), SWAPPED))


def states(rng, junk, *shape, empty, dim):
    """(m, l, acc) of which one is empty: (-inf, junk, junk)."""
    m, l, acc = normal(rng, *shape), 1 + normal(rng, *shape).abs(), normal(rng, *shape, dim)
    m[..., empty], l[..., empty], acc[..., empty, :] = -INF, junk, junk
    return m, l, acc


@case("merge")
def merge_with_empty_states(rng, junk):
    (m1, l1, acc1), (m2, l2, acc2) = (states(rng, junk, 3, 7, empty=i, dim=5) for i in (2, 4))
    return dict(m1=m1, l1=l1, acc1=laid(acc1, GAPS), m2=m2, l2=l2, acc2=laid(acc2, SWAPPED))


@case("merge")
def merge_in_several_programs(rng, junk):
    (m1, l1, acc1), (m2, l2, acc2) = (states(rng, junk, 600, empty=i, dim=255) for i in range(2))
    return dict(m1=m1, l1=l1, acc1=acc1, m2=m2, l2=l2, acc2=acc2)


@case("merge_lse")
def merge_lse_with_empty_states(rng, junk):
    (lse1, _, out1), (lse2, _, out2) = (states(rng, junk, 3, 7, empty=i, dim=5) for i in (2, 4))
    return dict(out1=out1, lse1=lse1, out2=out2, lse2=lse2)


@case("attention", variant="standard")
@case("attention")
def attention_with_window_and_bias(rng):
    return dict(q=laid(normal(rng, 2, 2, 70, 5), HEADS_INSIDE), k=laid(normal(rng, 2, 1, 75, 5), GAPS),
                v=laid(normal(rng, 2, 1, 75, 3), SWAPPED), window=40, bias=laid(normal(rng, 2, 2, 70, 75), SWAPPED))


@case("attention", variant="standard")
@case("attention")
def attention_with_mask(rng):
    return dict(q=normal(rng, 1, 3, 70, 5), k=normal(rng, 1, 3, 75, 5), v=normal(rng, 1, 3, 75, 3),
                mask=laid(coin(rng, 1, 3, 70, 75), SWAPPED), causal=True)


@case("attention", variant="standard")
@case("attention")
def attention_to_all_keys(rng):
    return dict(q=normal(rng, 1, 4, 3, 20), k=normal(rng, 1, 2, 33, 20), v=normal(rng, 1, 2, 33, 20))


@case("attention_weights", variant="standard")
def attention_weights_with_mask(rng):
    return dict(q=normal(rng, 1, 4, 70, 5), k=laid(normal(rng, 1, 2, 75, 5), SWAPPED), mask=coin(rng, 70, 75))


@case("attention", variant="standard")
def attention_in_several_programs(rng):
    return dict(q=normal(rng, 1, 4, 130, 5), k=normal(rng, 1, 2, 300, 5), v=normal(rng, 1, 2, 300, 3))


@case("attention", variant="standard", small=("attention.WIDEST", 16))
@case("attention", small=("attention.WIDEST", 16))
def attention_of_wide_heads(rng):
    return dict(q=laid(normal(rng, 1, 4, 70, 20), HEADS_INSIDE), k=laid(normal(rng, 1, 2, 75, 20), SWAPPED),
                v=normal(rng, 1, 2, 75, 3), mask=coin(rng, 70, 75), causal=True)


def gradients(rng, batch, lq, lk, keep, d=5, dv=3, **arguments):
    """Arguments of attention_backward whose out and lse are those of the forward pass; 4 query heads, 2 KV heads."""
    q, k, v = (normal(rng, batch, *shape) for shape in ((4, lq, d), (2, lk, d), (2, lk, dv)))
    scores = q @ k.repeat_interleave(2, 1).mT * d ** -0.5
    scores = scores if keep is None else torch.where(keep, scores, -INF)
    lse = scores.logsumexp(-1)
    out = (scores - torch.where(lse == -INF, 0.0, lse)[..., None]).exp() @ v.repeat_interleave(2, 1)
    return dict(q=laid(q, HEADS_INSIDE), k=laid(k, GAPS), v=laid(v, SWAPPED), out=laid(out, GAPS), lse=lse,
                dout=laid(normal(rng, *out.shape), HEADS_INSIDE), **arguments)


@case("attention_backward")
def attention_backward_with_mask(rng):
    mask = coin(rng, 2, 4, 35, 45)
    keep = mask & torch.ones(35, 45, dtype=torch.bool).tril(10)
    return gradients(rng, 2, 35, 45, keep, mask=laid(mask, SWAPPED), causal=True)


@case("attention_backward")
def attention_backward_in_many_programs(rng):
    return gradients(rng, 1, 70, 70, torch.ones(70, 70, dtype=torch.bool).tril(), causal=True)


@case("attention_backward")
def attention_backward_of_all_keys(rng):
    return gradients(rng, 1, 70, 35, None)


@case("attention_backward", small=("attention.WIDEST", 16))
def attention_backward_of_wide_heads(rng):
    return gradients(rng, 1, 35, 45, torch.ones(35, 45, dtype=torch.bool).tril(10), d=20, dv=35, causal=True)


@case("split_kv", small=("attention.WIDEST", 16))
def split_kv_of_wide_heads(rng):
    return dict(q=laid(normal(rng, 1, 2, 40, 20), GAPS), k=laid(normal(rng, 1, 1, 75, 20), SWAPPED),
                v=normal(rng, 1, 1, 75, 3), n_splits=2)


@case("split_kv")
def split_kv_with_an_empty_split(rng):
    return dict(q=laid(normal(rng, 2, 4, 3, 5), GAPS), k=laid(normal(rng, 2, 2, 5, 5), SWAPPED),
                v=laid(normal(rng, 2, 2, 5, 3), GAPS), n_splits=4)


@case("split_kv")
def split_kv_in_many_programs(rng):
    return dict(q=normal(rng, 1, 2, 40, 5), k=normal(rng, 1, 1, 75, 5), v=normal(rng, 1, 1, 75, 3), n_splits=3)


@case("split_kv")
def split_kv_merged_in_several_programs(rng):
    return dict(q=normal(rng, 5, 2, 60, 5), k=normal(rng, 5, 1, 3, 5), v=normal(rng, 5, 1, 3, 255), n_splits=2)


def caches(rng, lens, n_new, capacity, heads, kv_heads, d=5):
    """Arguments of decode; the rows of the caches that are not held are JUNK."""
    k, v = normal(rng, len(lens), kv_heads, capacity, d), normal(rng, len(lens), kv_heads, capacity, 3)
    for x in (k, v):
        for row, n in zip(x, lens):
            row[:, n:] = JUNK
    new = (len(lens), kv_heads, n_new)
    return dict(q=laid(normal(rng, len(lens), heads, n_new, d), HEADS_INSIDE), k_new=laid(normal(rng, *new, d), GAPS),
                v_new=laid(normal(rng, *new, 3), SWAPPED), k_cache=laid(k, HEADS_INSIDE), v_cache=laid(v, GAPS),
                lens=torch.tensor(lens))


@case("decode")
def decode_with_unused_rows(rng):
    return caches(rng, [40, 0, 7], 3, 47, 4, 2)


@case("decode")
def decode_of_many_rows(rng):
    return caches(rng, [3, 40], 70, 113, 2, 1)


@case("decode", small=("attention.WIDEST", 16))
def decode_of_wide_heads(rng):
    return caches(rng, [3, 40], 2, 47, 2, 1, d=20)


@case("layer_norm", small=("layer_norm.TILE", 16))
def layer_norm_of_long_rows(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED), weight=laid(normal(rng, 13), Layout("steps", step=2)),
                bias=laid(normal(rng, 13), Layout("steps", step=2)))


@case("layer_norm_backward", small=("layer_norm.BACKWARD_TILE", 16))
def layer_norm_backward_of_long_rows(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED), weight=laid(normal(rng, 13), Layout("steps", step=2)),
                dy=laid(normal(rng, 5, 13), GAPS))


@case("layer_norm")
def layer_norm_of_strided_rows(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED), weight=laid(normal(rng, 13), Layout("steps", step=2)),
                bias=laid(normal(rng, 13), Layout("steps", step=2)))


@case("layer_norm")
def layer_norm_in_several_programs(rng):
    return dict(x=normal(rng, 7, 33_000), weight=normal(rng, 33_000), bias=normal(rng, 33_000))


@case("layer_norm_backward")
def layer_norm_backward_of_strided_rows(rng):
    return dict(x=laid(normal(rng, 5, 13), SWAPPED), weight=laid(normal(rng, 13), Layout("steps", step=2)),
                dy=laid(normal(rng, 5, 13), GAPS))


@case("layer_norm_backward")
def layer_norm_backward_in_several_programs(rng):
    return dict(x=normal(rng, 7, 33_000), weight=normal(rng, 33_000), dy=normal(rng, 7, 33_000))


@case("rope")
def rope_with_positions_per_sequence(rng):
    return dict(x=laid(normal(rng, 2, 3, 35, 10), HEADS_INSIDE), positions=torch.arange(70).view(2, 35))


@case("rope")
def rope_in_several_programs(rng):
    return dict(x=laid(normal(rng, 1, 2, 1100, 130), GAPS), positions=torch.arange(1100))


@case("gelu")
def gelu_of_rows_with_gaps(rng):
    return dict(x=laid(normal(rng, 5, 13), GAPS))


@case("gelu")
def gelu_in_several_programs(rng):
    return dict(x=normal(rng, 5, 70_001))


@case("dropout")
def dropout_of_rows_with_gaps(rng):
    return dict(x=laid(normal(rng, 5, 13), GAPS), p=0.4, seed=3)


@case("dropout")
def dropout_in_several_programs(rng):
    return dict(x=normal(rng, 5, 70_001), p=0.4, seed=3)


def subjects(package):
    """The implementations in a copy of triton_kernels by variant; None is the package as it stands."""
    found, problems = describe(vars(package), path=Path(package.__path__[0]), name="triton_kernels")
    assert not problems, problems
    return {subject.name.partition(".")[2] or None: subject for subject in found}


def judge(package, name, dtype="float32"):
    """Run the case of that name on a copy of triton_kernels: "" if its result is right, else what is reported.

    Right is what stays within the error budget of every element, and does not depend on what nobody may read. Raises
    what is no verdict: an error that is no KernelMemoryError, or an operation that refuses the arguments.
    """
    with pytest.MonkeyPatch.context() as patch:
        if name in SMALL:
            place, n_bytes = SMALL[name]
            module, constant = place.split(".")
            patch.setattr(sys.modules[f"{package.__name__}.{module}"], constant, n_bytes)
        return _judge(package, name, dtype)


def _judge(package, name, dtype):
    variant, operation, make = CASES[name]
    subject, results = subjects(package)[variant], []
    for junk in [{"junk": NAN}, {"junk": 0.0}] if "junk" in signature(make).parameters else [{}]:
        trial = Trial(name, dtype)
        try:
            getattr(Implementation(subject, dtype, trial), operation)(**make(np.random.default_rng(7), **junk))
        except Raised as raised:
            if raised.__cause__ is not None and type(raised.__cause__).__name__ != "KernelMemoryError":
                raise
            return str(raised)
        results.append([quantity.got for quantity in trial.calls[-1].quantities])
        if trial.calls[-1].wrong() and junk != {"junk": NAN}:       # beside NaN, some results are free
            return trial.calls[-1].wrong()
    drawn = OPERATIONS[operation].drawn       # judged as given: the generator must be the one that its own tests know
    if drawn and package is not triton_kernels:
        mine, known = (as_drawn(p, operation, make) for p in (package, triton_kernels))
        if not torch.equal(mine, known):
            return f"{operation} draws other numbers"
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results[0], results[-1], strict=True))
    return "" if same else f"{operation} depends on what nobody may read"


def as_drawn(package, operation, make):
    """What the generator of an operation draws for a case: its second result."""
    arguments = {name: value.values.float() if isinstance(value, Laid) else value
                 for name, value in make(np.random.default_rng(7)).items()}
    return getattr(package, operation)(**arguments)[1]


def offered(package):
    """(variant, operation) for everything that a copy of triton_kernels offers."""
    return {(variant, operation) for variant, subject in subjects(package).items() for operation in subject.operations}


def cases_of(package):
    """The names of the cases whose operation this package has."""
    return [name for name, (variant, operation, _) in CASES.items() if (variant, operation) in offered(package)]
