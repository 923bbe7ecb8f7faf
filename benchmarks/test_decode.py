"""Decoding in TB/s: one new token for every sequence against a long cache, beside a copy of as many bytes.

64 query heads on 8 KV heads of 128, bfloat16. Bytes: the keys and values that are attended to, once, and the queries
and results; a copy is counted with what it reads and what it writes. `decode` also writes the new rows into the caches,
and asks the device for the longest sequence before it launches, which is timed with it.
"""

import pytest
import torch
from impls import triton_kernels as kernels

from . import judge, peers
from .test_attention import OURS, right
from .test_rows import copy_of

CASES = [pytest.param(batch, held, id=f"B{batch}-{held}") for batch, held in ((64, 4096), (16, 16384), (1, 131072))]
SPLITS = (8, 32, 128)


def inputs(batch, held, device, small):
    """q and, per sequence, `held` keys and values with room for one more; bytes that must be moved."""
    heads, kv_heads, d = (4, 2, 32) if small else (64, 8, 128)
    batch, held = (min(batch, 2), held // 1024) if small else (batch, held)
    generator = torch.Generator(device).manual_seed(held)
    def random(*shape):
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
    q, caches = random(batch, heads, 1, d), [random(batch, kv_heads, held + 1, d) for _ in range(2)]
    about = dict(batch=batch, tokens=held + 1, head_dim=d, n_heads=heads, n_kv_heads=kv_heads, dtype="bfloat16")
    return q, *caches, about, sum(x.nbytes for x in (q, q, *caches))


def of_peers(q, k, v):
    """SDPA with one query is neither causal nor masked: it sees every key."""
    return peers.contenders(lambda name: peers.forward(name, q, k, v, False), tuple(peers.BACKENDS))


@pytest.mark.parametrize(("batch", "held"), CASES)
def test_decode(batch, held, device, small, race):
    q, k_cache, v_cache, about, size = inputs(batch, held, device, small)
    new = [x[:, :, -1:].clone() for x in (k_cache, v_cache)]
    lens = torch.full((q.shape[0],), k_cache.shape[2] - 1, device=device)
    calls, missing = of_peers(q, k_cache, v_cache)
    calls |= {"copy": copy_of(size, device), OURS: lambda: kernels.decode(q, *new, k_cache, v_cache, lens)}

    def check(done):
        one = {"q": q[-1:, -1:], "k_new": new[0][-1:, -1:], "v_new": new[1][-1:, -1:], "k_cache": k_cache[-1:, -1:],
               "v_cache": v_cache[-1:, -1:], "lens": lens[-1:]}
        return {OURS: {"budget_used": judge.used("decode", one, {"out": done.results[OURS][-1:, -1:]}, dtype=q.dtype)}}

    assert right(race(group="decode", case=about, unit="TB/s", work=size, contenders=calls, missing=missing,
                      check=check)) <= 1


@pytest.mark.parametrize("n_splits", SPLITS)
@pytest.mark.parametrize(("batch", "held"), CASES[1:])
def test_split_kv(batch, held, n_splits, device, small, race):
    q, k, v, about, size = inputs(batch, held, device, small)
    calls, missing = of_peers(q, k, v)
    calls |= {"copy": copy_of(size, device), OURS: lambda: kernels.split_kv(q, k, v, n_splits=n_splits)}

    def check(done):
        one = {"q": q[-1:, -1:], "k": k[-1:, -1:], "v": v[-1:, -1:], "n_splits": n_splits}
        out, lse = done.results[OURS]
        results = {"out": out[-1:, -1:], "lse": lse[-1:, -1:]}
        return {OURS: {"budget_used": judge.used("split_kv", one, results, dtype=q.dtype)}}

    assert right(race(group="split_kv", case=about | {"n_splits": n_splits}, unit="TB/s", work=size, contenders=calls,
                      missing=missing, check=check)) <= 1
