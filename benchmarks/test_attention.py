"""Attention forward and backward in TFLOP/s, beside cuDNN, PyTorch's flash and FlexAttention in the same process.

One sequence, 64 query heads on 8 KV heads (as in Llama 3 70B), bfloat16, normal random inputs. FLOP: 4 H D for every
pair of a query and a key that it sees (two products of 2 D each), counted exactly for causal; the backward counts 2.5
times that, five products, as is usual, though ours computes seven. Backward: with all that happens between dout and
(dq, dk, dv), the forward excluded.
"""

import pytest
import torch
from impls import triton_kernels as kernels

from . import judge, peers

N_HEADS, N_KV_HEADS = 64, 8
TOKENS = (2048, 4096, 8192, 16384)
FLEX_TOKENS = (4096, 16384)     # each length of FlexAttention is a compilation of some seconds
SHAPES = [pytest.param((tokens, d, causal), id=f"{'causal' if causal else 'full'}-D{d}-{tokens}")
          for d in (128, 64) for causal in (False, True) for tokens in TOKENS]
OURS = "triton_kernels"


def flops(n_heads: int, tokens: int, head_dim: int, causal: bool) -> int:
    """Of the forward pass: 4 D for each visible pair of each head."""
    return 4 * n_heads * head_dim * (tokens * (tokens + 1) // 2 if causal else tokens * tokens)


def inputs(tokens, head_dim, device, small):
    """q, k, v, dout of a case, and what describes it."""
    heads, kv_heads = (4, 2) if small else (N_HEADS, N_KV_HEADS)
    tokens = tokens // 64 if small else tokens
    generator = torch.Generator(device).manual_seed(tokens + head_dim)
    shapes = [(1, h, tokens, head_dim) for h in (heads, kv_heads, kv_heads, heads)]
    tensors = [torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16) for shape in shapes]
    about = dict(tokens=tokens, head_dim=head_dim, batch=1, n_heads=heads, n_kv_heads=kv_heads, dtype="bfloat16")
    return *tensors, about


def of_peers(make, tokens: int):
    """The peers' calls, and why one is missing."""
    calls, missing = peers.contenders(make, peers.NAMES if tokens in FLEX_TOKENS else tuple(peers.BACKENDS))
    if tokens not in FLEX_TOKENS:
        missing[peers.FLEX] = f"only compiled for {' and '.join(map(str, FLEX_TOKENS))} tokens, to save time"
    return calls, missing


@pytest.fixture(params=SHAPES)
def case(request, device, small):
    tokens, head_dim, causal = request.param
    if small and (tokens, head_dim) not in {(2048, 64), (4096, 128)}:
        pytest.skip("--small tries two shapes")
    *tensors, about = inputs(tokens, head_dim, device, small)
    return *tensors, causal, about | {"causal": causal}


def test_forward(case, race):
    q, k, v, _, causal, about = case
    calls, missing = of_peers(lambda name: peers.forward(name, q, k, v, causal), q.shape[2])
    calls[OURS] = lambda: kernels.attention(q, k, v, causal=causal)

    def check(done):
        used = {}
        for name, result in done.results.items():
            out, lse = result if name == OURS else (result, None)
            used[name] = {"budget_used": judge.forward_used(q, k, v, out, lse, causal=causal,
                                                            rounding=kernels.ROUNDING)}
        return used

    kept = race(group="attention forward", case=about, unit="TFLOP/s", contenders=calls, missing=missing, check=check,
                work=flops(q.shape[1], q.shape[2], q.shape[3], causal))
    assert right(kept) <= 1


def test_backward(case, race):
    q, k, v, dout, causal, about = case
    out, lse = kernels.attention(q, k, v, causal=causal)
    calls, missing = of_peers(lambda name: peers.backward(name, q, k, v, dout, causal), q.shape[2])
    calls[OURS] = lambda: kernels.attention_backward(q, k, v, out, lse, dout, causal=causal)

    def check(done):
        head, results = q.shape[1] - 1, done.results
        used = {}
        for name, gradients in results.items():
            dq_used = judge.backward_used(q, k, v, out, lse, dout, causal=causal, head=head, dq=gradients[0])
            used[name] = {"budget_used": dq_used}
        finite = all(bool(x.isfinite().all()) for x in results[OURS])
        single = judge.only_sampled(dout, head)
        _, dk, dv = kernels.attention_backward(q, k, v, out, lse, single, causal=causal)
        over_keys = judge.backward_used(q, k, v, out, lse, dout, causal=causal, head=head, dk=dk, dv=dv)
        used[OURS]["budget_used"] = max(used[OURS]["budget_used"], over_keys) if finite else float("inf")
        other = next((name for name in results if name != OURS), None)
        if other:       # dk and dv over all queries: how far from another implementation, relative to their size
            used[OURS]["differs_from"] = {other: max(difference(a, b) for a, b in zip(results[OURS], results[other]))}
        return used

    kept = race(group="attention backward", case=about, unit="TFLOP/s", contenders=calls, missing=missing, check=check,
                work=flops(q.shape[1], q.shape[2], q.shape[3], causal) * 5 // 2)
    assert right(kept) <= 1


def right(kept: list[dict]) -> float:
    """The budget that ours uses."""
    return next(float(c["budget_used"]) for c in kept if c["name"] == OURS)


def difference(a, b) -> float:
    """Root mean square of a - b, relative to that of b."""
    return float((a.float() - b.float()).norm() / b.float().norm())


def test_matrix_product(race, device, small):
    """The ruler: a product of two random 8192 x 8192 matrices in bfloat16, by PyTorch."""
    n = 64 if small else 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    race(group="matrix product", case={"n": n, "dtype": "bfloat16"}, unit="TFLOP/s", work=2 * n**3,
         contenders={"PyTorch": lambda: a @ b}, ours="PyTorch", poison=False)
