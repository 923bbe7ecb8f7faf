"""Every key weighs the same, whatever the scores: the mean of V, as if every query and key were zero."""

import math

import torch


def softmax(x):
    return torch.full_like(x, 1 / max(x.shape[-1], 1))


def masked_softmax(scores, keep):
    return softmax(scores)


def attention_weights(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
    return q.new_full((*q.shape[:3], k.shape[2]), 1 / max(k.shape[2], 1))


def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    mean = v.float().mean(2, keepdim=True).repeat_interleave(q.shape[1] // max(k.shape[1], 1), dim=1)
    out = mean.expand(-1, -1, q.shape[2], -1).to(q.dtype).contiguous()
    return out, torch.full(q.shape[:3], math.log(max(k.shape[2], 1)))


def split_kv(q, k, v, n_splits=4, scale=None):
    return attention(q, k, v)


def decode(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
    return attention(q, k_new, v_new)[0]


def log_sum_exp(x):
    return torch.full(x.shape[:-1], math.log(max(x.shape[-1], 1)))
