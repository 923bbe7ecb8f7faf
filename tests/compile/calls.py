"""How the operations are called: the rows of the table, in words that are also the arguments.

A word is a dtype, a flag, or a name and a number: `bf16 D128 causal` is `dtype=bfloat16, D=128, causal=True`.
"""

import re
from functools import partial

import torch
from impls import triton_kernels

from .record import tensor

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}

CALLS = {
    "attention": """
        bf16 D64 causal | bf16 D128 | bf16 D128 L1001 causal mask bias | bf16 D80 window | bf16 D256 causal
        bf16 D128 q1 | f16 D128 causal | f32 D64 causal | f32 D256 mask bias
        f64 D128 causal | f64 D128 mask bias | f64 D256 window
        """,
    "attention_backward": """
        bf16 D64 causal | bf16 D128 L1001 causal mask | f16 D128 causal | bf16 D256 causal | bf16 D128 L1
        f32 D64 | f32 D256 causal | f64 D128 causal mask | f64 D256 causal mask
        """,
    "split_kv": "bf16 D128 q1 | f64 D256 q16",
    "decode": "bf16 D128 q1 | f64 D256 q16",
    "softmax": "bf16 n1000 | f32 n65536",
    "masked_softmax": "f64 n4096 | f64 n65536",
    "log_sum_exp": "f64 n65536",
    "softmax_backward": "bf16 n1000 | f64 n4096 | f64 n65536",
    "merge": "f64 D256",
    "merge_lse": "bf16 D128",
    "layer_norm": "bf16 n1000 | f32 n16384 | f64 n65536",
    "layer_norm_backward": "bf16 n1000 | f32 n8192 | f64 n4096 | f64 n65536",
    "rope": "bf16 D128",
    "gelu": "f64 n1000",
    "dropout": "bf16 n1000",
    "standard.attention": "bf16 D128 causal mask bias | f64 D256",
}


def attention_inputs(dtype, D, L=1024, q=None):
    """q, k, v: 8 query heads on 2 KV heads, L keys, and as many queries or q of them."""
    queries = tensor(2, 8, q or L, D, dtype=dtype)
    return queries, tensor(2, 2, L, D, dtype=dtype), tensor(2, 2, L, D, dtype=dtype)


def mask_for(q, k):
    return tensor(*q.shape[:3], k.shape[2], dtype=torch.bool)


def attention(dtype, D, L=1024, q=None, causal=False, window=False, mask=False, bias=False, module=triton_kernels):
    q, k, v = attention_inputs(dtype, D, L, q)
    module.attention(
        q, k, v, causal, mask_for(q, k) if mask else None, window=256 if window else None,
        bias=tensor(*q.shape[:3], k.shape[2]) if bias else None)  # fmt: skip


def attention_backward(dtype, D, L=1024, causal=False, mask=False):
    q, k, v = attention_inputs(dtype, D, L)
    lse = tensor(*q.shape[:3], dtype=torch.promote_types(dtype, torch.float32))
    triton_kernels.attention_backward(q, k, v, q, lse, q, causal, mask_for(q, k) if mask else None)


def decode(dtype, D, q):
    queries, new, _ = attention_inputs(dtype, D, L=q)
    caches = tensor(2, 2, 1024, D, dtype=dtype), tensor(2, 2, 1024, D, dtype=dtype)
    triton_kernels.decode(queries, new, new, *caches, torch.tensor([500, 512]))


def states(dtype, D):
    return tensor(4, 512, dtype=dtype), tensor(4, 512, D, dtype=dtype)


def merge(dtype, D):
    m, acc = states(dtype, D)
    triton_kernels.merge(m, m, acc, m, m, acc)


def merge_lse(dtype, D):
    out, lse = states(dtype, D)[1], states(torch.promote_types(dtype, torch.float32), D)[0]
    triton_kernels.merge_lse(out, lse, out, lse)


def rows(dtype, n):
    return tensor(64, n, dtype=dtype)


def vector(dtype, n):
    return tensor(n, dtype=dtype)


BUILDERS = {
    "attention": attention,
    "attention_backward": attention_backward,
    "split_kv": lambda dtype, D, q: triton_kernels.split_kv(*attention_inputs(dtype, D, q=q)),
    "decode": decode,
    "softmax": lambda dtype, n: triton_kernels.softmax(rows(dtype, n)),
    "masked_softmax": lambda dtype, n: triton_kernels.masked_softmax(rows(dtype, n), rows(torch.bool, n)),
    "log_sum_exp": lambda dtype, n: triton_kernels.log_sum_exp(rows(dtype, n)),
    "softmax_backward": lambda dtype, n: triton_kernels.softmax_backward(rows(dtype, n), rows(dtype, n)),
    "merge": merge,
    "merge_lse": merge_lse,
    "layer_norm": lambda dtype, n: triton_kernels.layer_norm(rows(dtype, n), vector(dtype, n), vector(dtype, n)),
    "layer_norm_backward":
        lambda dtype, n: triton_kernels.layer_norm_backward(rows(dtype, n), vector(dtype, n), rows(dtype, n)),
    "rope": lambda dtype, D: triton_kernels.rope(tensor(2, 8, 1024, D, dtype=dtype), vector(torch.int64, 1024)),
    "gelu": lambda dtype, n: triton_kernels.gelu(rows(dtype, n)),
    "dropout": lambda dtype, n: triton_kernels.dropout(rows(dtype, n), 0.1, 1),
    "standard.attention": partial(attention, module=triton_kernels.standard),
}


def arguments(words: str) -> dict:
    """`bf16 D128 causal` as keyword arguments."""
    dtype, *others = words.split()
    named = {}
    for word in others:
        name, number = re.fullmatch(r"([A-Za-z_]+)(\d*)", word).groups()
        named[name] = int(number) if number else True
    return {"dtype": DTYPES[dtype]} | named


def calls() -> dict:
    """Every row of the table: its label, and the call."""
    table = {}
    for operation, text in CALLS.items():
        for words in filter(None, map(str.strip, re.split(r"[|\n]", text))):
            table[f"{operation} {words}"] = partial(BUILDERS[operation], **arguments(words))
    return table
