"""Masks: a hidden key has weight 0 and no influence, as if it were not there; which shapes and polarity a mask has."""

import torch
from sympy import IndexedBase, Sum, exp, limit, oo, symbols

from properties import Inputs, agree, assume, attention_inputs, claim, exactly, example, given, masked_rows, refuted, st
from properties.strategies.masks import inputs_and_key, inputs_and_query, padded_inputs

MODERATE_REGIMES = ("rising keys", "low scores", "falling keys", "dominant key", "ties", "values with a mean")
CONTENTS = (0.0, 1.0, -8.0, 64.0, -64.0)        # of a hidden key; with moderate queries no score overflows in float16
LARGE_VALUES = (0.0, -1.0, 6e4, -6e4)           # of a hidden value; finite in every dtype


# ------------------------------------------------------------------------------------------ a hidden key weighs nothing

@claim(
    rows="001-020 002-045 003-008 001-150",
    formula=r"j \notin \Omega_i \implies P_{ij} = 0",
    if_fails="hidden scores are lowered by a finite constant instead of left out, or the mask is read the wrong way",
)
@given(drawn=masked_rows(empty_rows=False, moderate=True))
def hidden_scores_get_weight_zero(impl, drawn):
    """In a row that sees a key, every hidden key has weight exactly 0."""
    scores, keep = drawn
    exactly(impl.masked_softmax(scores, keep)[~keep], 0.0)


def _hidden(drawn):
    return {"at": (0,)} if not drawn[1].all() else None


@hidden_scores_get_weight_zero.proof(tie=_hidden)
def _():
    """For any sum Z > 0 of the visible exponentials: the limit as the hidden score goes to minus infinity."""
    t, z = symbols("t", real=True), symbols("Z", positive=True)
    return limit(exp(t) / (exp(t) + z), t, -oo), 0


@claim(
    rows="001-020 002-045",
    formula=r"P_{ij} = 0 \text{ wherever causal, window or mask hides key } j \text{ from query } i",
    if_fails="one of the options is ignored where another one is given, or hides by a finite constant",
)
@given(x=attention_inputs(masks=True, causal=None, windows=True))
def hidden_keys_get_weight_zero(impl, x):
    """Attention gives weight 0 to every key that is hidden, whichever option hides it."""
    agree(impl.attention_weights(x.q, x.k, **x.options)[~x.visible()], 0.0)


@claim(
    rows="001-021 002-051 002-044",
    formula=r"j \notin \Omega_i \implies \operatorname{out}_i(k_j, v_j) = \operatorname{out}_i(k', v')",
    if_fails="the maximum runs over hidden scores, a hidden score is lowered by a finite constant, or a statistic of "
             "all keys or values (a block's scale) enters",
)
@given(drawn=inputs_and_key(masks=True, regimes=MODERATE_REGIMES), key=st.sampled_from(CONTENTS),
       value=st.sampled_from(LARGE_VALUES))
def hidden_contents_do_not_matter(impl, drawn, key, value):
    """Whatever finite numbers a hidden key and its value hold, the queries that do not see it return the same bits.

    Finite and moderate: 0 times NaN is NaN (see spec/mask_constants.py), and a hidden score that overflows may too.
    """
    x, j = drawn
    k, v, blind = x.k.clone(), x.v.clone(), ~x.visible()[..., j]
    k[:, :, j], v[:, :, j] = key, value
    one, other = impl.attention(*x, **x.options), impl.attention(x.q, k, v, **x.options)
    exactly(one.out[blind], other.out[blind])
    exactly(one.lse[blind], other.lse[blind])


# --------------------------------------------------------------------------------------- hidden means as if it were not

@claim(
    rows="001-019 002-039",
    formula=r"\operatorname{masked\_softmax}(s, \Omega)_\Omega = \operatorname{softmax}(s_\Omega)",
    if_fails="the denominator still sums hidden scores, or the mask is applied after the softmax",
    corrects="masking_after_softmax",
)
@given(drawn=masked_rows(empty_rows=False))
def masked_softmax_is_softmax_of_the_visible(impl, drawn):
    """The visible weights are the softmax of the visible scores alone, as if the hidden columns were not there."""
    scores, keep = drawn
    masked, last = impl.masked_softmax(scores, keep), len(scores) - 1
    agree(masked[last, keep[last]], impl.softmax(scores[last, keep[last]]))


@refuted(rows="001-019", formula=r"P_\Omega = \operatorname{softmax}(s) \odot \mathbf 1_\Omega")
@example(drawn=(torch.zeros(1, 2).double(), torch.tensor([[True, False]])))
@given(drawn=masked_rows(empty_rows=False))
def masking_after_softmax(impl, drawn):
    """Zeroing the hidden weights after the softmax is the same as masking before it."""
    scores, keep = drawn
    agree(impl.softmax(scores) * keep, impl.masked_softmax(scores, keep))


@claim(
    rows="001-019",
    formula=r"\operatorname{masked\_softmax}(s, \Omega)_j \sum_{k \in \Omega} p_k = p_j\,[j \in \Omega],"
            r"\quad p = \operatorname{softmax}(s)",
    if_fails="the denominator is not the sum over the visible scores",
    corrects="masking_after_softmax",
)
@given(drawn=masked_rows(empty_rows=False, moderate=True))
def masking_after_softmax_needs_renormalising(impl, drawn):
    """Masking after the softmax is right once the surviving weights are divided by their sum."""
    scores, keep = drawn
    p = impl.softmax(scores) * keep
    agree(impl.masked_softmax(scores, keep) * p.sum(-1)[:, None], p)


def _first_row(drawn):
    scores, keep = drawn
    return {"s": scores[0].tolist(), "keep": keep[0].double().tolist(), "n": scores.shape[1], "i": 1}


@masking_after_softmax_needs_renormalising.proof(tie=_first_row)
def _():
    """For every n; keep is 1 at visible scores and 0 elsewhere."""
    i, j, n = symbols("i j n", integer=True, positive=True)
    s, keep = IndexedBase("s", real=True), IndexedBase("keep", real=True)
    visible, everything = Sum(keep[j] * exp(s[j]), (j, 1, n)), Sum(exp(s[j]), (j, 1, n))
    return keep[i] * exp(s[i]) / visible * (visible / everything), keep[i] * exp(s[i]) / everything


@claim(
    rows="002-039 001-009",
    formula=r"\operatorname{out}_i = \operatorname{attention}(q_i, K_{\Omega_i}, V_{\Omega_i})",
    if_fails="hidden keys stay in the denominator, another query's mask is read, or holes in a mask are not expected",
)
@given(drawn=inputs_and_query(masks=True, causal=None, windows=True, empty_rows=False))
def attention_is_attention_over_the_visible_keys(impl, drawn):
    """What a query returns is attention over the keys that it sees, gathered one after the other."""
    x, i = drawn
    h = i % x.q.shape[1]
    seen, kv = x.visible()[0, h, i], h // x.groups
    assume(seen.any())
    alone = impl.attention(x.q[:1, h:h + 1, i:i + 1], x.k[:1, kv:kv + 1, seen], x.v[:1, kv:kv + 1, seen], scale=x.scale)
    agree(impl.attention(*x, **x.options).out[:1, h:h + 1, i:i + 1], alone.out)


@claim(
    rows="001-074 002-050",
    formula=r"\operatorname{attn}(Q, [K; \text{pad}], [V; \text{pad}], \text{mask}) = \operatorname{attn}(Q, K, V)",
    if_fails="padded keys enter the maximum or the denominator, a batch entry reads another one's mask, or padding on "
             "the left is not expected",
    corrects="padded_rows_need_no_mask",
)
@given(drawn=padded_inputs())
def padding_changes_nothing(impl, drawn):
    """With the padded keys masked, wherever they are, a batch entry gives what it gives alone, without padding."""
    x, real = drawn
    padded = impl.attention(*x, **x.options, mask=real[:, None, None])
    e = len(real) - 1
    alone = impl.attention(x.q[e:], x.k[e:, :, real[e]], x.v[e:, :, real[e]], **x.options)
    agree(padded.out[e:], alone.out)
    agree(padded.lse[e:], alone.lse)


@refuted(rows="001-074", formula=r"\operatorname{attention}(Q, [K; 0], [V; 0]) = \operatorname{attention}(Q, K, V)")
@example(x=Inputs(torch.zeros(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double()))
@given(x=attention_inputs())
def padded_rows_need_no_mask(impl, x):
    """Padding with zeros changes nothing even without a mask, since a zero key is orthogonal to every query."""
    k, v = (torch.cat([t, torch.zeros_like(t[:, :, :1])], 2) for t in (x.k, x.v))
    agree(impl.attention(x.q, k, v, **x.options).out, impl.attention(*x, **x.options).out)


# ------------------------------------------------------------------------------------------------------ shapes of masks

@claim(
    rows="001-060 002-066",
    formula=r"\text{mask } (B, 1, 1, L_k) \equiv (B, H, L_q, L_k)",
    if_fails="the mask is not aligned with (B, H, Lq, Lk): a padding mask runs along the queries, or batch along heads",
)
@given(x=attention_inputs(masks=True, causal=None, windows=True))
def broadcast_masks_are_equivalent(impl, x):
    """A mask of shape (B, 1, 1, Lk) hides the same keys from every query and head, as does any mask that broadcasts."""
    assume("mask" in x.options)
    full = x.options["mask"].expand(*x.q.shape[:3], x.k.shape[2]).contiguous()
    one, other = impl.attention(*x, **x.options), impl.attention(*x.with_(mask=full), **x.with_(mask=full).options)
    agree(one.out, other.out)
    agree(one.lse, other.lse)


@claim(
    rows="002-066 001-087 002-044",
    formula=r"\operatorname{attention}(\pi Q, \pi K, \pi V, \pi M) = \pi \operatorname{attention}(Q, K, V, M)",
    if_fails="every head reads the mask of head 0, or every batch entry that of entry 0",
)
@given(x=attention_inputs(masks=True, causal=None))
def masks_go_with_their_head_and_batch_entry(impl, x):
    """Reversing the order of heads and of batch entries, masks included, reverses the output and nothing else."""
    mask = x.options.get("mask", torch.ones(1, 1, 1, 1, dtype=torch.bool)).expand(*x.q.shape[:3], x.k.shape[2])
    y = x.with_(q=x.q.flip(0, 1), k=x.k.flip(0, 1), v=x.v.flip(0, 1), mask=mask.flip(0, 1))
    agree(impl.attention(*y, **y.options).out.flip(0).flip(1), impl.attention(*x, **x.options).out)


@claim(
    rows="001-057 002-049",
    formula=r"\Omega_i = \{j\} \implies \operatorname{out}_i = v_j",
    if_fails="True is read as hidden, or the mask is added to the scores as 0 and 1",
    corrects="an_additive_mask_can_be_read_as_a_keep_mask",
)
@given(drawn=inputs_and_key())
def true_means_visible(impl, drawn):
    """A mask that is True at one key alone returns the value of that key."""
    x, j = drawn
    mask = (torch.arange(x.k.shape[2]) == j)[None, None, None]
    agree(impl.attention(*x, **x.options, mask=mask).out, x.values_of_heads()[:, :, j:j + 1])


@true_means_visible.proof(tie=lambda drawn: {"v": float(drawn[0].values_of_heads()[0, 0, drawn[1], 0])})
def _():
    """For any score s of the one visible key."""
    s, v = symbols("s v", real=True)
    return exp(s) * v / exp(s), v


@refuted(rows="002-049 001-057", formula=r"\Omega = \{M \ne 0\}, \quad M \in \{0, -\infty\}")
@example(drawn=(torch.zeros(1, 2).double(), torch.tensor([[True, False]])))
@given(drawn=masked_rows(empty_rows=False))
def an_additive_mask_can_be_read_as_a_keep_mask(impl, drawn):
    """An additive mask (0 keeps, -inf hides) can be given to code that hides where the mask is 0."""
    scores, keep = drawn
    additive = torch.zeros(keep.shape).masked_fill(~keep, -torch.inf)
    agree(impl.masked_softmax(scores, additive != 0), impl.masked_softmax(scores, keep))


# ------------------------------------------------------------------------------------------------- rows that see no key

@claim(
    rows="002-046 001-020",
    formula=r"\Omega_i = \varnothing \implies \operatorname{out}_i = 0,\ \operatorname{lse}_i = -\infty",
    if_fails="0 / 0 is not guarded, or a finite constant stands for -inf and the row becomes the mean of the values",
    corrects="an_empty_row_is_the_mean_of_the_values",
)
@given(x=attention_inputs(masks=True, causal=None, windows=True))
def empty_rows_give_zero(impl, x):
    """A query that sees no key returns 0, with log-sum-exp -inf: the neutral element of merging."""
    mask = x.options.get("mask", torch.ones(1, 1, 1, 1, dtype=torch.bool)).expand(*x.q.shape[:3], x.k.shape[2]).clone()
    mask[:, :, ::2] = False
    found = impl.attention(*x.with_(mask=mask), **x.with_(mask=mask).options)
    agree(found.out[:, :, ::2], 0.0)
    agree(found.lse[:, :, ::2], -torch.inf)


@refuted(rows="002-046", formula=r"\Omega_i = \varnothing \implies \operatorname{out}_i = \tfrac1n \sum_j v_j")
@example(x=Inputs(*(torch.ones(1, 1, 1, 1).double() for _ in range(3))))
@given(x=attention_inputs())
def an_empty_row_is_the_mean_of_the_values(impl, x):
    """A query whose keys are all hidden averages all values, hidden or not."""
    hidden = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    agree(impl.attention(*x, **x.options, mask=hidden).out, x.values_of_heads().mean(2, keepdim=True))


@claim(
    rows="002-067",
    formula=r"\operatorname{out}_j(\Omega_i = \varnothing) = \operatorname{out}_j(\Omega_i), \quad j \ne i",
    if_fails="rows share a maximum or a denominator, or a NaN of an empty row reaches its neighbours",
)
@given(drawn=inputs_and_query(masks=True))
def an_empty_row_spoils_no_other(impl, drawn):
    """Hiding every key from one query leaves the other queries as they were, bit for bit."""
    x, i = drawn
    mask = x.options.get("mask", torch.ones(1, 1, 1, 1, dtype=torch.bool)).expand(*x.q.shape[:3], x.k.shape[2]).clone()
    emptied, others = mask.clone(), torch.arange(x.q.shape[2]) != i
    emptied[:, :, i] = False
    one, other = (impl.attention(*x.with_(mask=m), **x.with_(mask=m).options) for m in (mask, emptied))
    exactly(one.out[:, :, others], other.out[:, :, others])
    exactly(one.lse[:, :, others], other.lse[:, :, others])
