"""Masks, windows, and rows that see no key."""
import torch

from impls.wrong.attention._online import INF, finite, mask_of, online_attention, visible_keys, weights

# --------------------------------------------------------------------------------------------- rows that see no key


def empty_row_is_nan(q, k, v, **options):
    """The numerator is divided by the denominator even where no key was seen.

    Shipped: pytorch#103963.
    Family: masks.
    """
    return online_attention(q, k, v, **options, finish=lambda m, l, acc: (acc / l[..., None], m + torch.log(l)))


def empty_first_block_is_nan(q, k, v, **options):
    """A row whose first block is hidden subtracts a running maximum of -inf from -inf, and never recovers.

    Shipped: pytorch#109517, llama.cpp#6438, mlx#2608.
    Family: masks.
    """
    def finish(m, l, acc):
        return torch.where(m[..., None] == -INF, 0.0, acc / l[..., None]), torch.where(m == -INF, -INF, m + l.log())

    return online_attention(q, k, v, **options, finish=finish, rescale=lambda old, new: torch.exp(old - new),
                            weights=lambda scores, m: torch.exp(scores - m[..., None]))


def empty_row_is_the_mean(q, k, v, **options):
    """Hidden scores become the lowest finite number: where all are hidden, all are equal.

    Shipped: pytorch#103749.
    Family: masks.
    """
    return online_attention(q, k, v, **options, hide=lambda scores, keep: torch.where(
        keep, scores, torch.finfo(scores.dtype).min))


def two_additive_masks_overflow(q, k, v, causal=False, mask=None, window=None, **options):
    """Each mask adds the lowest finite number: a key that two of them hide gets -inf, and a row of those NaN.

    Shipped: transformers#27114, NeMo-Automodel#2658.
    Family: masks.
    """
    lowest, none = torch.finfo(torch.float32).min, visible_keys(q, k, False, None, None)
    keeps = visible_keys(q, k, causal, None, window), none if mask is None else mask_of(q, k, mask)
    added = sum(torch.where(keep, 0.0, lowest) for keep in keeps)
    bias = options.pop("bias", None)
    return online_attention(q, k, v, bias=added if bias is None else added + bias, **options,
                            finish=lambda m, l, acc: (acc / l[..., None], m + torch.log(l)))


def lse_of_empty_row_is_finite(q, k, v, **options):
    """The denominator is kept from 0 before its logarithm, so a row that sees no key has a share in a merge.

    Shipped: vllm#49294.
    Family: masks.
    """
    def finish(m, l, acc):
        l = l.clamp(min=torch.finfo(l.dtype).tiny)
        return acc / l[..., None], finite(m) + torch.log(l)

    return online_attention(q, k, v, **options, finish=finish)


# ------------------------------------------------------------------------------------------------- causal and window

def causal_top_left(q, k, v, **options):
    """Query i sees the keys j <= i, whatever the lengths.

    Shipped: flash-attention#282, pytorch#108108, mlx#2835.
    Family: masks.
    """
    def visible(q, k, causal, mask, window):
        keep = visible_keys(q, k, False, mask, window)
        return keep & torch.ones(keep.shape[2:], dtype=torch.bool).tril() if causal else keep

    return online_attention(q, k, v, **options, visible=visible)


def causal_sees_the_next_key(q, k, v, **options):
    """With fewer queries than keys the comparison with the diagonal is off by one.

    Shipped: flashinfer#348.
    Family: masks.
    """
    def visible(q, k, causal, mask, window):
        lq, lk = q.shape[2], k.shape[2]
        diagonal = lk - lq + (lq < lk)
        keep = visible_keys(q, k, False, mask, window)
        return keep & torch.ones(lq, lk, dtype=torch.bool).tril(diagonal) if causal else keep

    return online_attention(q, k, v, **options, visible=visible)


def causal_once_per_four_rows(q, k, v, **options):
    """The vectorised path of half precision compares only the last of four rows with the diagonal.

    Shipped: pytorch#195910.
    Family: masks.
    Dtypes: float16, bfloat16.
    """
    def visible(q, k, causal, mask, window):
        lq, lk = q.shape[2], k.shape[2]
        last = torch.arange(lq)[:, None] // 4 * 4 + 3
        keep = visible_keys(q, k, False, mask, window)
        return keep & (torch.arange(lk) <= last + lk - lq) if causal else keep

    return online_attention(q, k, v, **options, visible=visible)


def causal_only_if_square(q, k, v, **options):
    """The flag is passed on to the kernel for equal lengths only, and lost otherwise.

    Shipped: jax#19237.
    Family: masks.
    """
    return online_attention(q, k, v, **options, visible=lambda q, k, causal, mask, window: visible_keys(
        q, k, causal and q.shape[2] == k.shape[2], mask, window))


def causal_lost_with_mask(q, k, v, **options):
    """Where a mask is given, the causal one is not built.

    Shipped: keras#23040, pytorch#187801.
    Family: masks.
    """
    return online_attention(q, k, v, **options, visible=lambda q, k, causal, mask, window: visible_keys(
        q, k, causal and mask is None, mask, window))


def window_one_key_too_wide(q, k, v, **options):
    """The lower bound of the window is inclusive: window keys before the current one.

    Shipped: transformers#39408, mlx-lm#390.
    Family: masks.
    """
    return online_attention(q, k, v, **options, visible=lambda q, k, causal, mask, window: visible_keys(
        q, k, causal, mask, None if window is None else window + 1))


def window_without_offset(q, k, v, **options):
    """The lower bound of the window counts queries from 0, although they are the last of the keys.

    Shipped: transformers#41184.
    Family: masks.
    """
    def visible(q, k, causal, mask, window):
        keep = visible_keys(q, k, causal or window is not None, mask, None)
        rows, columns = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
        return keep if window is None else keep & (columns > rows - window)

    return online_attention(q, k, v, **options, visible=visible)


def window_ignored_for_one_query(q, k, v, **options):
    """A single query takes the path of decoding, which knows no window.

    Shipped: nanochat#456.
    Family: masks.
    """
    return online_attention(q, k, v, **options, visible=lambda q, k, causal, mask, window: visible_keys(
        q, k, causal, mask, None if q.shape[2] == 1 else window))


def window_alone_is_not_causal(q, k, v, **options):
    """A window bounds the keys on the left, and only the flag bounds them on the right.

    Notes: none; a kernel whose windows have two sides takes -1 for an open one.
    Family: masks.
    """
    def visible(q, k, causal, mask, window):
        keep = visible_keys(q, k, causal, mask, None)
        lq, lk = q.shape[2], k.shape[2]
        return keep if window is None else keep & (torch.arange(lk) > torch.arange(lq)[:, None] + lk - lq - window)

    return online_attention(q, k, v, **options, visible=visible)


# ------------------------------------------------------------------------------------------------------------- masks

def _with_mask(change):
    """The visibility of a kernel that reads the mask (B, Hq, Lq, Lk) as `change(mask)`."""
    return lambda q, k, causal, mask, window: visible_keys(
        q, k, causal, None if mask is None else change(mask_of(q, k, mask)), window)


def mask_of_batch_0(q, k, v, **options):
    """The address of the mask lacks the term of the batch.

    Shipped: candle#3582, pytorch#184180, tt-metal#39910.
    Family: masks.
    """
    return online_attention(q, k, v, **options, visible=_with_mask(lambda mask: mask[:1]))


def mask_of_head_0(q, k, v, **options):
    """The address of the mask lacks the term of the head.

    Shipped: pytorch#163426.
    Family: head mapping.
    """
    return online_attention(q, k, v, **options, visible=_with_mask(lambda mask: mask[:, :1]))


def mask_as_a_length(q, k, v, **options):
    """The mask is counted and taken for a prefix of that length: holes and padding on the left are lost.

    Shipped: diffusers#14114.
    Family: masks.
    """
    return online_attention(q, k, v, **options, visible=_with_mask(
        lambda mask: torch.arange(mask.shape[-1]) < mask.sum(-1, keepdim=True)))


def padding_on_the_query_axis(q, k, v, mask=None, **options):
    """A mask of keys alone, (B, 1, 1, L), is laid along the queries where the lengths allow it.

    Shipped: hyunwoongko/transformer#40.
    Family: masks.
    """
    if mask is not None and mask.shape[-2] == 1 and q.shape[2] == k.shape[2]:
        mask = mask.mT
    return online_attention(q, k, v, mask=mask, **options)


def mask_added_as_0_and_1(q, k, v, mask=None, **options):
    """A boolean mask is added to the scores, like an additive one.

    Shipped: flash-sparse-attention#146.
    Family: masks.
    """
    if mask is not None:
        bias = options.pop("bias", None)
        options["bias"] = mask_of(q, k, mask).to(q.dtype) + (0 if bias is None else bias)
    return online_attention(q, k, v, **options)


def hidden_by_minus_10000(q, k, v, **options):
    """Hidden scores become -10000, which a visible score may fall below.

    Shipped: lattice#361, hyunwoongko/transformer#40.
    Family: masks.
    """
    out, lse = online_attention(q, k, v, **options, hide=lambda scores, keep: torch.where(keep, scores, -1e4))
    empty = online_attention(q, k, v, **options)[1] == -INF                     # rows without keys are seen to
    return out.masked_fill(empty[..., None], 0.0), lse.masked_fill(empty, -INF)


def hidden_scores_enter_the_maximum(q, k, v, **options):
    """The maximum is taken before the mask: a large hidden score pushes the visible ones below the smallest number.

    Notes: none; the mask can be applied to the weights instead of the scores, which saves a selection.
    Family: masks.
    """
    blocks = []

    def remember(scores, keep):
        blocks.append(keep)
        return scores

    return online_attention(q, k, v, **options, hide=remember, weights=lambda scores, m: torch.where(
        blocks[-1], weights(scores, m), 0.0))


def mask_after_the_softmax(q, k, v, mask=None, **options):
    """Weights are masked when they are already normalised, and not normalised again.

    Notes: 001, section 1.7.
    Family: masks.
    """
    out, lse = online_attention(q, k, v, mask=mask, **options)
    everything = online_attention(q, k, v, **options)[1]
    share = torch.where(lse == -INF, 0.0, torch.exp(lse - everything))
    return (out * share[..., None]).to(q.dtype), lse
