"""Causal, window and padding masks: which keys they show, and that the future has no influence."""

import torch
from sympy import Sum, symbols

from properties import (Inputs, agree, attention_inputs, claim, exactly, example, given, lengths, refuted, st,
                        tensor)
from properties.strategies.masks import inputs_and_query

WINDOWS = st.sampled_from((1, 2, 3, 8, 17, 300))
MODERATE_REGIMES = ("rising keys", "low scores", "falling keys", "dominant key", "ties", "values with a mean")
FUTURE_KEYS = st.sampled_from((0.0, 1.0, -8.0, 64.0, -64.0))    # with moderate queries no score overflows in float16
FUTURE_VALUES = st.sampled_from((0.0, -1.0, 6e4, -6e4))         # finite in every dtype


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ the masks

@claim(
    rows="001-056 001-058 003-007 003-006",
    formula=r"M_{ij} = [\,j \le i + L_k - L_q\,]",
    if_fails="the diagonal is excluded, or the mask is aligned top-left so that the last query does not see every key",
    corrects="only_earlier_tokens_are_visible",
)
@example(lq=5, lk=5)
@given(lq=lengths(most=33), lk=lengths(most=33))
def causal_mask_is_a_lower_triangle(impl, lq, lk):
    """The causal mask hides the strictly upper triangle, counted from the last query and the last key."""
    agree(impl.causal_mask(lq, lk), torch.ones(lq, lk).triu(lk - lq + 1) == 0)


@claim(
    rows="000-025 001-076",
    formula=r"M_{ij} = [\,0 \le i + L_k - L_q - j < w\,]",
    if_fails="the window is one key too wide or too narrow, or is not shifted by Lk - Lq",
)
@given(lq=lengths(most=33), lk=lengths(most=33), window=WINDOWS)
def window_mask_is_a_band(impl, lq, lk, window):
    """A window of w shows the current key and the w - 1 before it."""
    distance = torch.arange(lq)[:, None] + lk - lq - torch.arange(lk)
    agree(impl.sliding_window_mask(lq, lk, window), (distance >= 0) & (distance < window))


@claim(
    rows="000-025 001-076",
    formula=r"\sum_{ij} M_{ij} = n w - \tfrac{w (w - 1)}{2}, \quad w \le n",
    if_fails="the window is one key too wide or too narrow, or reaches the future too",
)
@given(n=lengths(most=65), window=WINDOWS)
def window_shows_nw_minus_a_triangle_of_pairs(impl, n, window):
    """A window of w <= n over n tokens shows n w - w (w - 1) / 2 pairs of query and key: linear in n."""
    w = min(window, n)
    agree(impl.sliding_window_mask(n, n, w).sum(), n * w - w * (w - 1) / 2)


@window_shows_nw_minus_a_triangle_of_pairs.proof(tie=lambda n, window: {"n": n, "w": min(window, n)})
def _():
    """For every n and w <= n: query i sees i keys up to the w-th, then w."""
    i, n, w = symbols("i n w", integer=True, positive=True)
    return Sum(i, (i, 1, w)) + w * (n - w), n * w - w * (w - 1) / 2


@claim(
    rows="002-050 001-060",
    formula=r"M_{b, 1, 1, j} = [\,j < \text{lens}_b\,]",
    if_fails="the mask of another batch entry is used, or the length itself counts as visible",
)
@given(lens=st.lists(st.integers(0, 17), min_size=1, max_size=4), spare=st.integers(0, 3))
def padding_mask_shows_the_first_keys(impl, lens, spare):
    """The padding mask shows the first lens[b] keys of batch entry b, to every head and query."""
    lk = max(lens) + spare
    expected = torch.tensor([[[[j < n for j in range(lk)]]] for n in lens], dtype=torch.bool)
    agree(impl.padding_mask(torch.tensor(lens), lk), expected.view(len(lens), 1, 1, lk))


# ---------------------------------------------------------------------------------------- what attention does with them

@claim(
    rows="000-026 001-058 001-057",
    formula=r"\operatorname{attention}(Q, K, V, \text{causal}) = \operatorname{attention}(Q, K, V, \text{mask} = M)",
    if_fails="causal is aligned top-left or off by one, or has no effect at all",
)
@given(x=attention_inputs())
def causal_attention_is_masked_attention(impl, x):
    """causal=True hides exactly what the causal mask hides."""
    mask = tensor(impl.causal_mask(x.q.shape[2], x.k.shape[2])).bool()
    one, other = impl.attention(*x, **x.options, causal=True), impl.attention(*x, **x.options, mask=mask)
    agree(one.out, other.out)
    agree(one.lse, other.lse)


@claim(
    rows="000-025 001-076 002-039",
    formula=r"\operatorname{attention}(\text{causal}, \text{window}, \text{mask}) = "
            r"\operatorname{attention}(\text{mask} \cap \text{causal} \cap \text{window})",
    if_fails="one option is lost where another is given, or saturated additive masks are added up",
    corrects="causal_attention_is_local",
)
@given(x=attention_inputs(masks=True, causal=None, windows=True))
def options_hide_what_any_of_them_hides(impl, x):
    """Causal, window and mask combine: a key is visible where all of them show it."""
    one = impl.attention(*x, **x.options)
    other = impl.attention(*x, mask=x.visible(), scale=x.options.get("scale"))
    agree(one.out, other.out)
    agree(one.lse, other.lse)


@claim(
    rows="000-026 001-059 002-044 002-119",
    formula=r"\operatorname{out}_i(k_{1..n}, v_{1..n}) = \operatorname{out}_i(k_{1..i}, v_{1..i}, \text{anything})",
    if_fails="the mask is one key too wide, misses a partial last block, or a statistic of future values enters",
)
@given(drawn=inputs_and_query(masks=True, windows=True, regimes=MODERATE_REGIMES), key=FUTURE_KEYS, value=FUTURE_VALUES)
def the_future_has_no_influence(impl, drawn, key, value):
    """Changing later keys and values, to whatever finite numbers, leaves the bits of a causal row as they were."""
    x, i = drawn
    x = x.with_(causal=True)
    future = i + 1 + max(x.k.shape[2] - x.q.shape[2], 0)
    k, v = x.k.clone(), x.v.clone()
    k[:, :, future:], v[:, :, future:] = key, value
    one, other = impl.attention(*x, **x.options), impl.attention(x.q, k, v, **x.options)
    exactly(one.out[:, :, :i + 1], other.out[:, :, :i + 1])
    exactly(one.lse[:, :, :i + 1], other.lse[:, :, :i + 1])


@claim(
    rows="003-006 001-176 001-006 003-004",
    formula=r"\operatorname{out}_1 = v_1",
    if_fails="a token does not see itself (NaN or 0 here), or sees the next one",
    corrects="only_earlier_tokens_are_visible only_other_tokens_are_visible",
)
@given(x=attention_inputs(causal=True, same_lengths=True))
def the_first_token_sees_itself(impl, x):
    """A causal query sees its own key too: the first one sees nothing else and returns its own value."""
    agree(impl.attention(*x, **x.options).out[:, :, 0], x.values_of_heads()[:, :, 0])


@refuted(rows="003-006 001-176 002-043", formula=r"\Omega_i = \{\,j < i\,\}")
@example(x=Inputs(ones(1, 1, 1, 1), ones(1, 1, 1, 1), ones(1, 1, 1, 1)))
@given(x=attention_inputs(same_lengths=True))
def only_earlier_tokens_are_visible(impl, x):
    """Under the causal mask a token sees only the tokens before it."""
    earlier = torch.ones(x.q.shape[2], x.q.shape[2]).tril(-1).bool()
    agree(impl.attention(*x, **x.options, mask=earlier).out, impl.attention(*x, **x.options, causal=True).out)


@refuted(rows="001-006 003-004", formula=r"\Omega_i = \{\,j \ne i\,\}")
@example(x=Inputs(ones(1, 1, 1, 1), ones(1, 1, 1, 1), ones(1, 1, 1, 1)))
@given(x=attention_inputs(same_lengths=True))
def only_other_tokens_are_visible(impl, x):
    """In self-attention a token is compared with the other tokens, not with itself."""
    others = ~torch.eye(x.q.shape[2], dtype=torch.bool)
    agree(impl.attention(*x, **x.options, mask=others).out, impl.attention(*x, **x.options).out)


@refuted(rows="001-055", formula=r"\operatorname{attn}(Q, K, V) = \operatorname{attn}(Q, K, V, \text{causal})")
@example(x=Inputs(ones(1, 1, 2, 1), ones(1, 1, 2, 1), torch.tensor([[[[0.0], [1.0]]]]).double()))
@given(x=attention_inputs(same_lengths=True))
def encoders_use_the_causal_mask(impl, x):
    """An encoder's self-attention has the self-attention (causal) mask too."""
    agree(impl.attention(*x, **x.options).out, impl.attention(*x, **x.options, causal=True).out)


@claim(
    rows="001-061 001-055",
    formula=r"\frac{\partial \operatorname{out}_1}{\partial v_n} = P_{1n} > 0",
    if_fails="causal masking is on where it was not asked for",
    corrects="encoders_use_the_causal_mask",
)
@given(x=attention_inputs(same_lengths=True, scales=(0.0,)))
def without_a_mask_every_token_is_seen(impl, x):
    """Without a mask the first token sees the last: at scale 0 it returns the mean of all values."""
    n = x.k.shape[2]
    agree(impl.attention(*x, **x.options).out[:, :, 0] * n, x.values_of_heads().sum(2))


# -------------------------------------------------------------------------------------------------------------- windows

@claim(
    rows="000-025",
    formula=r"w \ge L_k \implies \operatorname{attention}(w) = \operatorname{attention}(\text{causal})",
    if_fails="window does not imply causal, or a window longer than the keys is taken modulo something",
)
@given(x=attention_inputs(masks=True), spare=st.sampled_from((0, 1, 1000)))
def a_window_past_the_length_is_causal(impl, x, spare):
    """A window at least as long as the keys hides nothing that causal does not."""
    wide = impl.attention(*x, **x.options, window=x.k.shape[2] + spare)
    causal = impl.attention(*x, **x.options, causal=True)
    agree(wide.out, causal.out)
    agree(wide.lse, causal.lse)


@claim(
    rows="000-025",
    formula=r"w = 1 \implies \operatorname{out}_i = v_i",
    if_fails="the window is one key too wide, or one too narrow (0 or NaN here)",
)
@given(x=attention_inputs(same_lengths=True))
def a_window_of_one_returns_the_values(impl, x):
    """With a window of 1 every token sees only itself: the output is V, each value head for its query heads."""
    agree(impl.attention(*x, **x.options, window=1).out, x.values_of_heads())


@refuted(rows="002-053", formula=r"\operatorname{attention}(\text{causal}) = \operatorname{attention}(w = 2)")
@example(x=Inputs(ones(1, 1, 3, 1), ones(1, 1, 3, 1), torch.tensor([[[[3.0], [0.0], [0.0]]]]).double()))
@given(x=attention_inputs(same_lengths=True))
def causal_attention_is_local(impl, x):
    """A causal mask makes attention local: a token sees itself and its neighbour."""
    agree(impl.attention(*x, **x.options, causal=True).out, impl.attention(*x, **x.options, window=2).out)
