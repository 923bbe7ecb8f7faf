"""Which key-value head, and which mask, a query head reads."""
import torch

from impls.wrong.attention._online import INF, mask_of, online_attention, visible_keys


def kv_head_modulo(q, k, v, **options):
    """Key-value heads are tiled instead of repeated in place: query head h reads head h % Hkv.

    Shipped: jax-js#180, onnx#7274.
    Family: head mapping.
    """
    return online_attention(q, k, v, **options, head=lambda h, hq, hkv: h % hkv)


def kv_head_divided_by_their_number(q, k, v, **options):
    """Query head h reads head h // Hkv instead of h // (Hq // Hkv): the same for 4 and 2 heads, and for 1.

    Shipped: ONNXim#33.
    Family: head mapping.
    """
    return online_attention(q, k, v, **options, head=lambda h, hq, hkv: h if hq == hkv else min(h // hkv, hkv - 1))


def query_head_reads_keys_directly(q, k, v, **options):
    """The index of the query head is used for the keys as well, and what lies beyond is clamped to the last head.

    Shipped: LMCache#3092.
    Family: head mapping.
    """
    return online_attention(q, k, v, **options, head=lambda h, hq, hkv: min(h, hkv - 1))


def group_rounded_to_a_power_of_two(q, k, v, **options):
    """A block of rows holds a power of two of query heads, so groups of three are read as groups of four.

    Shipped: llama.cpp#19112.
    Family: head mapping.
    """
    return online_attention(q, k, v, **options, head=lambda h, hq, hkv: h // (1 << (hq // hkv - 1).bit_length()))


def values_of_a_tiled_head(q, k, v, **options):
    """Keys are read from head h // (Hq // Hkv), values from head h % Hkv.

    Notes: none; two addresses are written out, and only one was corrected.
    Family: head mapping.
    """
    return online_attention(q, k, v, **options, value_head=lambda h, hq, hkv: h % hkv)


def causal_row_divided_by_the_group(q, k, v, **options):
    """The row is divided by the size of the group as if the heads of a group were packed into it, which they are not.

    Shipped: flash-attention#2528.
    Family: head mapping.
    """
    def visible(q, k, causal, mask, window):
        rows, offset = torch.arange(q.shape[2])[:, None] // (q.shape[1] // k.shape[1]), k.shape[2] - q.shape[2]
        keep = visible_keys(q, k, False, mask, window)
        return keep & (torch.arange(k.shape[2]) <= rows + offset) if causal else keep

    return online_attention(q, k, v, **options, visible=visible)


def multi_query_repeats_the_sequence(q, k, v, **options):
    """The one key-value head is repeated along the keys instead of the heads: the output forgives it, lse does not.

    Shipped: VeOmni#162, prime-rl#2681.
    Family: head mapping.
    """
    n_rep = q.shape[1] if k.shape[1] == 1 else 1
    k, v = (x.repeat_interleave(n_rep, 2) for x in (k, v))
    if options.get("bias") is not None and options["bias"].shape[-1] > 1:
        options["bias"] = options["bias"].repeat_interleave(n_rep, -1)

    def visible(q, k, causal, mask, window):
        once = k[:, :, ::n_rep]
        return visible_keys(q, once, causal, mask, window).repeat_interleave(n_rep, -1)

    return online_attention(q, k, v, **options, visible=visible)


def mask_of_the_kv_head(q, k, v, **options):
    """A mask with heads is read at the key-value head instead of the query head.

    Notes: none; behind the line that maps the head, every address uses the mapped one.
    Family: head mapping.
    """
    def visible(q, k, causal, mask, window):
        keep = visible_keys(q, k, causal, None, window)
        group = q.shape[1] // k.shape[1]
        return keep if mask is None else keep & mask_of(q, k, mask)[:, [h // group for h in range(q.shape[1])]]

    return online_attention(q, k, v, **options, visible=visible)


def bias_of_the_first_head(q, k, v, bias=None, **options):
    """A bias with heads is read at head 0 by all of them.

    Notes: none; the stride of the heads is 0 for the biases that have been tried.
    Family: head mapping.
    """
    return online_attention(q, k, v, bias=bias if bias is None else bias[:, :1], **options)


def head_count_is_not_checked(q, k, v, **options):
    """Query heads that do not divide evenly among the key-value heads are accepted, and the last ones left at 0.

    Shipped: flash-linear-attention#1029.
    Family: head mapping.
    """
    used = q.shape[1] // k.shape[1] * k.shape[1]
    out, lse = q.new_zeros(*q.shape[:3], v.shape[3]), torch.full(q.shape[:3], -INF)
    for name in ("mask", "bias"):
        if used < q.shape[1] and options.get(name) is not None and options[name].shape[1] > 1:
            options[name] = options[name][:, :used]
    out[:, :used], lse[:, :used] = online_attention(q[:, :used], k, v, **options)
    return out, lse
