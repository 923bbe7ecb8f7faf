"""Merging two partial attentions over disjoint keys: the step that blockwise, split-KV and ring attention share.

A partial attention is the state of an online softmax: the running maximum m = max s_j, the denominator
l = sum exp(s_j - m) and the numerator acc = sum exp(s_j - m) v_j. Two states are brought to the common maximum
m = max(m1, m2), which scales both sums of state i by w_i = exp(m_i - m) <= 1, and then simply add:

    l = w1 l1 + w2 l2,    acc = w1 acc1 + w2 acc2

(Milakov and Gimelshein 2018, section 3; Dao et al. 2022, FlashAttention, section 3.1). The empty state (-inf, 0, 0) is
the identity: its weight is 0 by definition, because exp(-inf - -inf) would be NaN when both are empty.

A finished attention with its log-sum-exp is the state m = lse, l = 1, acc = out.
"""

import torch
import triton
import triton.language as tl

from .common import (ARITHMETIC, INF, require, require_device, require_memory, require_tensor, rows_per_program,
                     state_dtype, warps)


@triton.jit
def merge_weights(m1, m2):
    """The common maximum, and the factors that bring both states to it; an empty state counts 0."""
    m = tl.maximum(m1, m2)
    w1 = tl.where(m1 == -INF, 0.0, tl.exp(m1 - m))
    w2 = tl.where(m2 == -INF, 0.0, tl.exp(m2 - m))
    return m, w1, w2


@triton.jit
def merge_kernel(
    m1_ptr, l1_ptr, acc1_ptr, m2_ptr, l2_ptr, acc2_ptr, m_ptr, l_ptr, acc_ptr, n_rows, dim,
    ACC: tl.constexpr, FINISHED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """FINISHED: m is lse, l is 1 (and not read), acc is out; the result is divided by its denominator."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    real = rows < n_rows
    m1 = tl.load(m1_ptr + rows, mask=real, other=-INF).to(ACC)
    m2 = tl.load(m2_ptr + rows, mask=real, other=-INF).to(ACC)
    m, w1, w2 = merge_weights(m1, m2)
    filled1, filled2 = m1 != -INF, m2 != -INF       # an empty state is not read: it may hold anything
    if FINISHED:
        l = w1 + w2
    else:
        l1 = tl.load(l1_ptr + rows, mask=filled1, other=0.0).to(ACC)
        l2 = tl.load(l2_ptr + rows, mask=filled2, other=0.0).to(ACC)
        l = w1 * l1 + w2 * l2

    columns = tl.arange(0, BLOCK_D)
    offsets = rows[:, None] * dim + columns[None, :]
    inside = real[:, None] & (columns[None, :] < dim)
    acc1 = tl.load(acc1_ptr + offsets, mask=inside & filled1[:, None], other=0.0).to(ACC)
    acc2 = tl.load(acc2_ptr + offsets, mask=inside & filled2[:, None], other=0.0).to(ACC)
    acc = w1[:, None] * acc1 + w2[:, None] * acc2

    if FINISHED:
        acc = acc / tl.where(l == 0, 1.0, l)[:, None]
        tl.store(m_ptr + rows, m + tl.log(l), mask=real)
    else:
        tl.store(m_ptr + rows, m, mask=real)
        tl.store(l_ptr + rows, l, mask=real)
    tl.store(acc_ptr + offsets, acc.to(acc_ptr.dtype.element_ty), mask=inside)


def _launch(m1, l1, acc1, m2, l2, acc2, m, l, acc, *, finished):
    if m.numel():
        dim = acc.shape[-1]
        block_rows, block_d = rows_per_program(m.numel(), dim), triton.next_power_of_2(max(dim, 1))
        states = [None if x is None else x.contiguous() for x in (m1, l1, acc1, m2, l2, acc2)]
        merge_kernel[(triton.cdiv(m.numel(), block_rows),)](
            *states, m, l, acc, m.numel(), dim, ACC=ARITHMETIC[m.dtype], FINISHED=finished, BLOCK_ROWS=block_rows,
            BLOCK_D=block_d, num_warps=warps(block_rows * block_d))


def _check(rows, values):
    """All `rows` have one shape (..., L), all `values` have (..., L, D)."""
    (name, first), *_ = rows.items()
    for key, x in {**rows, **values}.items():
        require_tensor(key, x)
        require_memory(key, x)
        require(x.dtype in ARITHMETIC, f"{key} has dtype {x.dtype}; supported are float64, float32, float16, bfloat16")
        require_device(key, x, name, first)
    (values_name, shape), *_ = ((key, x.shape) for key, x in values.items())
    for key, x in rows.items():
        require(x.shape == shape[:-1], f"{key} has shape {tuple(x.shape)}; beside {values_name} of shape "
                                       f"{tuple(shape)} it must be {tuple(shape[:-1])}")
    for key, x in values.items():
        require(x.ndim >= 1 and x.shape == shape, f"{key} has shape {tuple(x.shape)}, {values_name} has {tuple(shape)}")


def merge(m1, l1, acc1, m2, l2, acc2):
    """Two online-softmax states over disjoint keys become the state over all of them.

    m, l (..., L): running maximum and denominator; acc (..., L, D): numerator; no keys yet is (-inf, 0, 0), whatever an
    empty state holds besides. Returns (m, l, acc), float64 if any input is, else float32. ValueError if shapes differ.
    """
    _check({"m1": m1, "l1": l1, "m2": m2, "l2": l2}, {"acc1": acc1, "acc2": acc2})
    dtype = state_dtype(m1, l1, acc1, m2, l2, acc2)
    m, l, acc = (torch.empty(x.shape, dtype=dtype, device=x.device) for x in (m1, l1, acc1))
    _launch(m1, l1, acc1, m2, l2, acc2, m, l, acc, finished=False)
    return m, l, acc


def merge_lse(out1, lse1, out2, lse2):
    """Two finished attentions over disjoint keys, out (..., L, D) and lse (..., L), become the one over all of them.

    Returns (out, lse): out in the dtype of out1, lse float64 if any input is, else float32. An empty one has lse -inf.
    """
    _check({"lse1": lse1, "lse2": lse2}, {"out1": out1, "out2": out2})
    require(out1.dtype == out2.dtype, f"out2 has dtype {out2.dtype}, but out1 has {out1.dtype}")
    lse = torch.empty(lse1.shape, dtype=state_dtype(out1, lse1, out2, lse2), device=lse1.device)
    out = torch.empty(out1.shape, dtype=out1.dtype, device=out1.device)
    _launch(lse1, None, out1, lse2, None, out2, lse, None, out, finished=True)
    return out, lse
