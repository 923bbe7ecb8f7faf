"""The shape and dtype of what every operation returns; what stands in it is decided by a rule, not computed."""

import torch


def every_operation(fill):
    """All operations by name; each returns `fill(shape, dtype)` for every tensor of its result."""
    def like(x, *shape, dtype=None):
        return fill(shape or x.shape, dtype or x.dtype)

    def wide(x, *shape):
        return like(x, *shape, dtype=torch.promote_types(x.dtype, torch.float32))

    def softmax(x):
        return like(x)

    def softmax_backward(y, dy):
        return like(y)

    def masked_softmax(scores, keep):
        return like(scores)

    def log_sum_exp(x):
        return fill(x.shape[:-1], torch.promote_types(x.dtype, torch.float32))

    def merge(m1, l1, acc1, m2, l2, acc2):
        return wide(m1), wide(l1), wide(acc1)

    def merge_lse(out1, lse1, out2, lse2):
        return like(out1), wide(lse1)

    def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
        return like(q, *q.shape[:3], v.shape[3]), wide(q, *q.shape[:3])

    def attention_weights(q, k, causal=False, mask=None, scale=None, window=None, bias=None):
        return like(q, *q.shape[:3], k.shape[2])

    def attention_backward(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
        return like(q), like(k), like(v)

    def split_kv(q, k, v, n_splits=4, scale=None):
        return attention(q, k, v)

    def decode(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
        return like(q, *q.shape[:3], v_new.shape[3])

    def repeat_kv(x, n_rep):
        return like(x, x.shape[0], x.shape[1] * n_rep, *x.shape[2:])

    def split_heads(x, h):
        return like(x, x.shape[0], h, x.shape[1], x.shape[2] // h)

    def merge_heads(x):
        return like(x, x.shape[0], x.shape[2], x.shape[1] * x.shape[3])

    def causal_mask(lq, lk):
        return fill((lq, lk), torch.bool)

    def sliding_window_mask(lq, lk, window):
        return fill((lq, lk), torch.bool)

    def padding_mask(lens, lk):
        return fill((len(lens), 1, 1, lk), torch.bool)

    def layer_norm(x, weight, bias, eps=1e-5):
        return like(x)

    def layer_norm_backward(x, weight, dy, eps=1e-5):
        return like(x), like(weight), like(weight)

    def rope(x, positions, base=10000.0):
        return like(x)

    def gelu(x):
        return like(x)

    def dropout(x, p, seed):
        return like(x), fill(x.shape, torch.bool)

    return {name: value for name, value in locals().items() if name not in ("fill", "like", "wide")}
