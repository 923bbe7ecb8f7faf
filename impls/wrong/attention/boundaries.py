"""Lengths that are no multiple of a block, loop bounds, head sizes."""
import torch
from torch.nn.functional import pad

from impls.wrong.attention._online import BLOCK, INF, key_blocks, online_attention, visible_keys


def _causal(causal, window):
    return causal or window is not None


def tail_of_zeros_not_hidden(q, k, v, **options):
    """The last block is filled up with zero keys that get weight, unless the diagonal hides them.

    Shipped: jax#27224, pytorch#160861, flashinfer#5090.
    Family: boundaries.
    """
    lk, more = k.shape[2], -k.shape[2] % BLOCK
    if options.get("bias") is not None:
        options["bias"] = pad(options["bias"].expand(*options["bias"].shape[:-1], lk), (0, more))

    def visible(q, k, causal, mask, window):
        keep = visible_keys(q, k[:, :, :lk], causal, mask, window)
        return pad(keep, (0, more), value=not _causal(causal, window))

    return online_attention(q, pad(k, (0, 0, 0, more)), pad(v, (0, 0, 0, more)), **options, visible=visible)


def last_key_counted_again(q, k, v, **options):
    """Loads past the end are clamped to the last key, which then fills the last block with its weight.

    Notes: none; a clamp keeps the address in range, and the weight is forgotten.
    Family: boundaries.
    """
    lk = k.shape[2]
    rows = torch.arange(-(-lk // BLOCK) * BLOCK).clamp(max=lk - 1)
    for name in ("mask", "bias"):
        if options.get(name) is not None and options[name].shape[-1] > 1:
            options[name] = options[name][..., rows]
    return online_attention(q, k[:, :, rows], v[:, :, rows], **options, visible=lambda q, k, causal, mask, window: (
        visible_keys(q, k, False, mask, None) & visible_keys(q, k[:, :, :lk], causal, None, window)[..., rows]))


def whole_blocks_of_keys_only(q, k, v, **options):
    """The number of blocks is rounded down, so that keys past the last whole one are skipped.

    Notes: none; `n // BLOCK` for a rounded-up quotient, in the bound of a loop.
    Family: boundaries.
    """
    return online_attention(q, k, v, **options, blocks=lambda lk: key_blocks(lk if lk < BLOCK else lk // BLOCK * BLOCK))


def whole_tiles_of_queries_only(q, k, v, **options):
    """The grid is rounded down: rows past the last whole tile of queries are never computed.

    Notes: none; `n // BLOCK` for a rounded-up quotient, in a grid of programs.
    Family: boundaries.
    """
    out, lse = online_attention(q, k, v, **options)
    computed = q.shape[2] if q.shape[2] < BLOCK else q.shape[2] // BLOCK * BLOCK
    out[:, :, computed:], lse[:, :, computed:] = 0.0, 0.0
    return out, lse


def last_key_dropped_at_32n_plus_1(q, k, v, **options):
    """A last block of a single key is taken for an empty one.

    Shipped: pytorch#191937.
    Family: boundaries.
    """
    return online_attention(q, k, v, **options, blocks=lambda lk: key_blocks(lk - (lk % 32 == 1 and lk > 1), 32))


def causal_loop_without_offset(q, k, v, **options):
    """The loop of a causal tile ends at the block of its last query, counted from the first key.

    Shipped: gpt-oss#196.
    Family: boundaries.
    """
    def visible(q, k, causal, mask, window):
        keep = visible_keys(q, k, causal, mask, window)
        end = (torch.arange(q.shape[2])[:, None] // BLOCK + 1) * BLOCK
        return keep & (torch.arange(k.shape[2]) < end) if _causal(causal, window) else keep

    return online_attention(q, k, v, **options, visible=visible)


def one_diagonal_block(q, k, v, **options):
    """Only the last block of keys of a causal tile is masked, but the diagonal of a tile may cross two.

    Shipped: flash-attention#436, flash-sparse-attention#213.
    Family: boundaries.
    """
    def visible(q, k, causal, mask, window):
        if not causal:
            return visible_keys(q, k, causal, mask, window)
        lq, lk = q.shape[2], k.shape[2]
        rows, columns = torch.arange(lq)[:, None], torch.arange(lk)
        last_row = (rows // BLOCK * BLOCK + BLOCK - 1).clamp(max=lq - 1) + lk - lq
        diagonal = visible_keys(q, k, True, None, window)
        return visible_keys(q, k, False, mask, None) & (diagonal | (columns // BLOCK < last_row // BLOCK))

    return online_attention(q, k, v, **options, visible=visible)


def window_loop_starts_for_the_last_row(q, k, v, **options):
    """The loop of a tile starts at the block of the first key that its last row sees, too late for its first rows.

    Notes: none; the loop must end where the last row does, and start where the first one does.
    Family: boundaries.
    """
    def visible(q, k, causal, mask, window):
        keep = visible_keys(q, k, causal, mask, window)
        if window is None:
            return keep
        lq, lk = q.shape[2], k.shape[2]
        last_row = (torch.arange(lq)[:, None] // BLOCK * BLOCK + BLOCK - 1).clamp(max=lq - 1) + lk - lq
        return keep & (torch.arange(lk) // BLOCK >= (last_row - window + 1).clamp(min=0) // BLOCK)

    return online_attention(q, k, v, **options, visible=visible)


def window_clipped_below_the_length(q, k, v, **options):
    """A window as long as the keys is cut to one less, so that the last query misses the first key.

    Notes: none; the largest distance between two positions is one less than their number.
    Family: boundaries.
    """
    return online_attention(q, k, v, **options, visible=lambda q, k, causal, mask, window: visible_keys(
        q, k, causal, mask, None if window is None else max(min(window, k.shape[2] - 1), 1)))


def head_dim_past_64_ignored(q, k, v, **options):
    """The tile is 64 wide, whatever the head dim.

    Shipped: triton#621.
    Family: boundaries.
    """
    return online_attention(q, k, v, **options, dot=lambda q, k, scale: scale * (q[..., :64] @ k[..., :64].mT))


def value_columns_past_the_head_dim_dropped(q, k, v, **options):
    """The tile of the output is as wide as the keys, although the values may be wider.

    Shipped: flash-attention#2552.
    Family: boundaries.
    """
    out, lse = online_attention(q, k, v, **options)
    out[..., q.shape[3]:] = 0.0
    return out, lse


def no_keys_give_lse_of_zero(q, k, v, **options):
    """Without any key the kernel returns early, with zeros for the output and for its log-sum-exp.

    Shipped: vllm#49334.
    Family: boundaries.
    """
    out, lse = online_attention(q, k, v, **options)
    return out, torch.where(lse == -INF, 0.0, lse) if k.shape[2] == 0 else lse
