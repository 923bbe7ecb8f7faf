"""Mask constants: -inf hides; a finite constant leaks over the reals, and hides in a dtype only from far enough."""

import torch
from sympy import IndexedBase, Sum, exp, log, symbols

from properties import agree, at_most, attention_inputs, claim, example, given, masked_rows, refuted, rows, st

INF = float("inf")
REACH = 1000.0          # a gap of scores beyond which exp(-gap) is 0 in every dtype; float64 is the last, at 746
HALF_HIDDEN = torch.tensor([[True, False]])


def filled(scores, keep, constant):
    """The scores, with the constant in place of the hidden ones."""
    return torch.where(keep, scores, constant)


def lowered(scores, keep, constant):
    """The scores, with the constant added to the hidden ones."""
    return torch.where(keep, scores, scores + constant)


def pair(visible, hidden):
    """Two scores, of which the second is hidden."""
    return torch.tensor([[visible, hidden]], dtype=torch.float64), HALF_HIDDEN


# ------------------------------------------------------------------------------------------------------- minus infinity

@claim(
    rows="001-019 001-150 002-045",
    formula=r"\operatorname{masked\_softmax}(s, \Omega) = \operatorname{softmax}(s + M), \quad M \in \{0, -\infty\}",
    if_fails="-inf - (-inf) is not guarded, or hidden scores are lowered by a finite constant",
    corrects="minus_1000_is_enough minus_10000_is_enough minus_1e9_is_minus_infinity",
)
@given(drawn=masked_rows())
def minus_infinity_hides(impl, drawn):
    """Filling hidden scores with minus infinity before the softmax is masking."""
    scores, keep = drawn
    agree(impl.softmax(filled(scores, keep, -INF)), impl.masked_softmax(scores, keep))


@claim(
    rows="001-020 004-020 002-047",
    formula=r"\Omega = \{1\} \implies \operatorname{out} = v_1, \quad \text{however far } s_1 \text{ is below } s_2",
    if_fails="the mask is a finite constant such as -1e4, and hidden keys win against very low visible scores",
    corrects="minus_10000_is_enough",
)
@given(query=st.sampled_from((1.0, 1e3, 2e4, 6e4)), hidden=st.sampled_from((0.0, 0.5, -0.5)))
def no_visible_score_is_too_low(impl, query, hidden):
    """A visible key keeps all the weight however low its score is, down to the end of the dtype's range."""
    q, k, v = (torch.tensor(x, dtype=torch.float64).view(1, 1, -1, 1) for x in ([query], [-1.0, hidden], [1.0, 0.0]))
    agree(impl.attention(q, k, v, mask=HALF_HIDDEN[None, None], scale=1.0).out, 1.0)


def infinite_constant(constant):
    """the constant is minus infinity"""
    return constant == -INF


@claim(
    rows="001-022",
    formula=r"\operatorname{softmax}\big(c\,(s + M)\big) = \operatorname{softmax}(c\,s + M)",
    if_fails="a score of -inf does not give weight 0",
    needs=infinite_constant,
)
@given(drawn=masked_rows(empty_rows=False, moderate=True), scale=st.sampled_from((0.5, 0.125)),
       constant=st.sampled_from((-INF, -20.0, -1000.0)))
def masks_commute_with_the_scale(impl, drawn, scale, constant):
    """An additive mask may be added before or after the scores are scaled."""
    scores, keep = drawn
    before, after = lowered(scores, keep, constant) * scale, lowered(scores * scale, keep, constant)
    agree(impl.softmax(before), impl.softmax(after))


# ------------------------------------------------------------------------------------- finite constants, over the reals

@claim(
    rows="004-020 002-047 001-147",
    formula=r"P_{ij} \le e^{\,c - \max_{k \in \Omega_i} s_{ik}}, \quad j \notin \Omega_i",
    if_fails="the softmax is not one of the scores given: the weight of a low score is too large",
    corrects="minus_1000_is_enough minus_10000_is_enough",
)
@given(drawn=masked_rows(empty_rows=False), constant=st.sampled_from((-1000.0, -10000.0, 0.0)))
def a_finite_constant_leaks_by_its_distance(impl, drawn, constant):
    """A key hidden by the score c has at most the weight e^(c - m), m being the largest visible score."""
    scores, keep = drawn
    largest = filled(scores, keep, -INF).amax(-1, keepdim=True)
    bound = (constant - largest).clamp(max=0.0).exp().expand(scores.shape)
    at_most(impl.softmax(filled(scores, keep, constant))[~keep], bound[~keep])


@refuted(rows="001-147", formula=r"\operatorname{softmax}(s + M) = \operatorname{softmax}(s_\Omega), \quad "
                                 r"M \in \{0, -1000\}")
@example(drawn=pair(0.0, 1000.0))
@given(drawn=masked_rows(empty_rows=False))
def minus_1000_is_enough(impl, drawn):
    """Adding -1000 to a score masks it."""
    scores, keep = drawn
    agree(impl.softmax(lowered(scores, keep, -1000.0)), impl.masked_softmax(scores, keep))


@refuted(rows="004-020", formula=r"s_j := -10^4 \implies p_j = 0, \quad j \notin \Omega")
@example(drawn=pair(-10000.0, 0.0))
@given(drawn=masked_rows(empty_rows=False))
def minus_10000_is_enough(impl, drawn):
    """Setting a score to -10000 masks it."""
    scores, keep = drawn
    agree(impl.softmax(filled(scores, keep, -10000.0)), impl.masked_softmax(scores, keep))


@refuted(rows="002-046 002-047", formula=r"\operatorname{softmax}(s_j := -10^9) = "
                                         r"\operatorname{softmax}(s_j := -\infty)")
@example(drawn=pair(-1e9, 0.0))
@given(drawn=masked_rows())
def minus_1e9_is_minus_infinity(impl, drawn):
    """Filling with -1e9 and filling with minus infinity are the same masking."""
    scores, keep = drawn
    agree(impl.softmax(filled(scores, keep, -1e9)), impl.softmax(filled(scores, keep, -INF)))


@claim(
    rows="001-148 004-020",
    formula=r"\operatorname{attention}(\text{bias} = c\,\mathbf 1) = \operatorname{attention}(\text{bias} = 0)",
    if_fails="the bias is added before the scale, or to the weights, or lse does not contain it",
    corrects="minus_1e9_is_minus_infinity",
)
@given(x=attention_inputs(scales=(1.0, 0.25, None)), constant=st.sampled_from((-1000.0, -10000.0, -0.5)))
def a_finite_mask_over_the_whole_row_vanishes(impl, x, constant):
    """Where every key is masked by one finite constant, nothing is: the output is that without a mask."""
    bias = torch.full((1, 1, x.q.shape[2], x.k.shape[2]), constant, dtype=torch.float64)
    masked, plain = impl.attention(*x, **x.options, bias=bias), impl.attention(*x, **x.options)
    agree(masked.out, plain.out)
    agree(masked.lse - constant, plain.lse)


def _first_query(x, constant):
    return {"s": x.scores()[0, 0, 0].tolist(), "v": x.v[0, 0, :, 0].tolist(), "n": x.k.shape[2], "c": constant}


@a_finite_mask_over_the_whole_row_vanishes.proof(tie=_first_query)
def _():
    """For every number n of keys and every real c."""
    j, n = symbols("j n", integer=True, positive=True)
    s, v, c = IndexedBase("s", real=True), IndexedBase("v", real=True), symbols("c", real=True)

    def out(shift):
        return Sum(exp(s[j] + shift) * v[j], (j, 1, n)) / Sum(exp(s[j] + shift), (j, 1, n))

    return out(c), out(0)


# -------------------------------------------------------------------------------------------------- zero for a constant

@refuted(rows="001-149", formula=r"\operatorname{softmax}(s_j := 0,\ j \notin \Omega)_j = 0")
@example(drawn=pair(0.0, 1.0))
@given(drawn=masked_rows(empty_rows=False))
def a_score_of_zero_hides(impl, drawn):
    """Setting a score to 0 gives its key weight 0."""
    scores, keep = drawn
    agree(impl.softmax(filled(scores, keep, 0.0))[~keep], 0.0)


@claim(
    rows="004-018 001-149",
    formula=r"p_j = \frac{e^0}{\sum_k e^{s_k}} = e^{-\operatorname{lse}(s)} > 0, \quad s_j = 0",
    if_fails="a score of 0 is treated as if it were masked",
    corrects="a_score_of_zero_hides",
)
@given(drawn=masked_rows(empty_rows=False))
def a_score_of_zero_counts_as_one(impl, drawn):
    """A key whose score was set to 0 still contributes e^0 = 1 to the sum: its weight is one over the sum."""
    scores, keep = drawn
    zeroed = filled(scores, keep, 0.0)
    lse = impl.log_sum_exp(zeroed)[:, None] * torch.ones(scores.shape)
    agree(impl.softmax(zeroed)[~keep], (-lse[~keep]).exp())


def _row_with_hidden(drawn):
    scores, keep = drawn
    for row, seen in zip(scores, keep):
        if not seen.all():
            return {"s": row[seen].tolist(), "n": int(seen.sum()), "m": int((~seen).sum()), "at": (0,)}
    return None


@a_score_of_zero_counts_as_one.proof(tie=_row_with_hidden)
def _():
    """For n visible scores and m hidden ones, every n and m."""
    total = _sum_of_visible() + symbols("m", integer=True, positive=True)
    return 1 / total, exp(-log(total))


def _sum_of_visible():
    j, n = symbols("j n", integer=True, positive=True)
    return Sum(exp(IndexedBase("s", real=True)[j]), (j, 1, n))


@refuted(rows="004-019", formula=r"\sum_{j \in \Omega} \operatorname{softmax}(s_j := 0,\ j \notin \Omega)_j = 1")
@example(drawn=pair(0.0, 1.0))
@given(drawn=masked_rows(empty_rows=False))
def visible_weights_still_sum_to_one(impl, drawn):
    """With hidden scores set to 0 the visible weights still sum to 1."""
    scores, keep = drawn
    agree((impl.softmax(filled(scores, keep, 0.0)) * keep).sum(-1), 1.0)


@claim(
    rows="004-019 004-018",
    formula=r"\sum_{j \in \Omega} p_j = \frac{Z}{Z + m}, \quad Z = \sum_{j \in \Omega} e^{s_j},\ m = |\bar\Omega|",
    if_fails="the sum in the denominator leaves out scores of 0",
    corrects="visible_weights_still_sum_to_one",
)
@given(drawn=masked_rows(empty_rows=False))
def scores_of_zero_take_weight_away(impl, drawn):
    """With m hidden scores set to 0 the visible weights sum to Z / (Z + m), less than 1."""
    scores, keep = drawn
    zeroed = filled(scores, keep, 0.0)
    share = (impl.log_sum_exp(filled(scores, keep, -INF)) - impl.log_sum_exp(zeroed)).exp()
    agree((impl.softmax(zeroed) * keep).sum(-1), share)


def _first_row(drawn):
    scores, keep = drawn
    return {"s": scores[0, keep[0]].tolist(), "n": int(keep[0].sum()), "m": int((~keep[0]).sum())}


@scores_of_zero_take_weight_away.proof(tie=_first_row)
def _():
    """For n visible scores and m hidden ones, every n and m."""
    z, m = _sum_of_visible(), symbols("m", integer=True, nonnegative=True)
    return z / (z + m), exp(log(z) - log(z + m))


# ------------------------------------------------------------------------------------------------- constants in a dtype

def a_visible_score_far_above(drawn, constant):
    """in every row a visible score is at least 1000 above the constant"""
    scores, keep = drawn
    return bool((filled(scores, keep, -INF).amax(-1) >= constant + REACH).all())


@claim(
    rows="004-020 002-047 001-147",
    formula=r"\max_{\Omega} s - c \ge 1000 \implies \operatorname{fl}(P_{ij}) = 0, \quad j \notin \Omega_i",
    over="floats",
    needs=a_visible_score_far_above,
    corrects="minus_1000_is_enough minus_10000_is_enough only_minus_infinity_gives_weight_zero",
)
@example(drawn=pair(-10000.0, 0.0), constant=-10000.0)
@given(drawn=masked_rows(empty_rows=False, moderate=True), constant=st.sampled_from((-2000.0, -10000.0)))
def a_far_constant_hides(dtype, drawn, constant):
    """In floating point a finite constant gives weight exactly 0 once exp underflows, in every dtype from 1000 on."""
    scores, keep = drawn
    weights = torch.softmax(filled(scores, keep, constant).to(getattr(torch, dtype)), -1)
    assert (weights[~keep] == 0).all(), f"a hidden key has weight {weights[~keep].max():.3g}"


@claim(
    rows="002-047",
    formula=r"\max_{\Omega} s \ge -10^9 + 1000 \implies \operatorname{fl}(P_{ij}) = 0, \quad j \notin \Omega_i",
    over="floats",
    dtypes=("float64", "float32", "bfloat16"),
    needs=a_visible_score_far_above,
    corrects="minus_1e9_is_usable_in_half_precision minus_1e9_is_minus_infinity",
)
@example(drawn=pair(-7e9, 0.0), constant=-1e9)
@given(drawn=masked_rows(empty_rows=False), constant=st.just(-1e9))
def minus_1e9_hides_from_ordinary_scores(dtype, drawn, constant):
    """-1e9 gives weight exactly 0 wherever a visible score is not itself near -1e9."""
    scores, keep = drawn
    weights = torch.softmax(filled(scores.to(getattr(torch, dtype)), keep, constant), -1)
    assert (weights[~keep] == 0).all(), f"a hidden key has weight {weights[~keep].max():.3g}"


@refuted(rows="002-048", formula=r"-10^9 \ge -x_{\max}", over="floats", dtypes=("float16",))
@example(drawn=pair(0.0, 0.0))
@given(drawn=masked_rows(moderate=True))
def minus_1e9_is_usable_in_half_precision(dtype, drawn):
    """Filling with -1e9 works in half precision."""
    scores, keep = drawn
    try:
        scores.to(getattr(torch, dtype)).masked_fill(~keep, -1e9)
    except RuntimeError as error:
        raise AssertionError(f"masked_fill: {error}") from None


@claim(
    rows="002-048",
    formula=r"\operatorname{fl}(-x_{\max} - x_{\max}) = -\infty",
    over="floats",
    corrects="minus_1e9_is_usable_in_half_precision",
)
def two_saturated_masks_are_infinite(dtype):
    """The lowest finite number is a mask that fits every dtype, but two such masks added up are minus infinity."""
    lowest = torch.tensor(torch.finfo(getattr(torch, dtype)).min, dtype=getattr(torch, dtype))
    assert lowest.isfinite() and lowest + lowest == -INF, f"{lowest} + {lowest} = {lowest + lowest}"


@refuted(rows="001-020", formula=r"\operatorname{fl}(P_{ij}) = 0 \implies s_{ij} = -\infty", over="floats")
@example(x=torch.tensor([[0.0, -1000.0]]).double())
@given(x=rows())
def only_minus_infinity_gives_weight_zero(dtype, x):
    """In floating point too, only a score of minus infinity has weight 0."""
    weights = torch.softmax(x.to(getattr(torch, dtype)), -1)
    assert not (weights == 0).any(), "a finite score has weight 0"


def finite_content(content):
    """the content is finite"""
    return bool(torch.tensor(content).isfinite())


@claim(
    rows="001-021 002-051",
    formula=r"0 \cdot v = 0",
    over="floats",
    needs=finite_content,
)
@given(content=st.sampled_from((0.0, 1.0, -6e4, INF, -INF, float("nan"))))
def a_weight_of_zero_erases_a_value(dtype, content):
    """A weight of 0 removes a value from the sum: but 0 times NaN, and 0 times infinity, is NaN."""
    weights, values = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0], [content]])
    out = weights.to(getattr(torch, dtype)) @ values.to(getattr(torch, dtype))
    assert out == 2, f"the result is {out.item()}, not 2"
