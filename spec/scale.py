"""The scale of the scores: its default, and that the one that is given, whatever its sign, is the one applied."""

from sympy import IndexedBase, Sum, exp, symbols

from properties import agree, attention_inputs, claim, exactly, given, st

POWERS_OF_4 = st.sampled_from((4.0, 0.25, -1.0, -4.0))        # exact even where queries and keys take a root of it each
HEADS = ((2, 1), (2, 2), (4, 2), (3, 1), (6, 2))


@claim(
    rows="000-003 001-145",
    formula=r"\operatorname{attention}(Q, K, V) = \operatorname{attention}(Q, K, V, \text{scale} = D^{-1/2})",
    if_fails="the default is 1, 1 / D, or the root of the model's width, of Dv or of a padded head dim",
    corrects="spec/score_variance.py::dividing_by_the_head_dim_gives_unit_variance",
)
@given(x=attention_inputs(heads=HEADS, least_dim=2, scales=(None,), masks=True, causal=None))
def the_default_scale_is_that_of_the_head_dim(impl, x):
    """Without a scale the scores are divided by the root of the dim of one head."""
    default, explicit = impl.attention(*x, **x.options), impl.attention(*x, **x.options, scale=x.q.shape[3] ** -0.5)
    agree(default.out, explicit.out)
    agree(default.lse, explicit.lse)


@claim(
    rows="000-001 000-002",
    formula=r"\operatorname{attn}(cQ, K, V, \text{scale} = s) = \operatorname{attn}(Q, K, V, \text{scale} = cs)",
    if_fails="the scale that is given is ignored or applied twice, its sign is lost, or 0 counts as not given",
)
@given(x=attention_inputs(masks=True, integers=True, scales=(1.0, 0.25)), factor=POWERS_OF_4)
def the_scale_folds_into_the_queries(impl, x, factor):
    """Scaling the queries is scaling the scores: for powers of four and their negatives bit for bit."""
    folded = x.with_(q=x.q * factor)
    scaled = x.with_(scale=x.scale * factor)
    one, other = impl.attention(*folded, **folded.options), impl.attention(*scaled, **scaled.options)
    exactly(one.out, other.out)
    exactly(one.lse, other.lse)


def _first_query(x, factor):
    keep = x.visible()[0, 0, 0]
    dots = x.k[0, 0, keep] @ x.q[0, 0, 0]
    return {"d": dots.tolist(), "v": x.v[0, 0, keep, 0].tolist(), "n": int(keep.sum()), "c": factor, "s": x.scale} \
        if keep.any() else None


@the_scale_folds_into_the_queries.proof(tie=_first_query)
def _():
    """For every number n of visible keys, any products d_j = q . k_j and every real factor c: (c q) . k_j = c d_j."""
    j, n = symbols("j n", integer=True, positive=True)
    d, v, (c, s) = IndexedBase("d", real=True), IndexedBase("v", real=True), symbols("c s", real=True)

    def out(dot, scale):
        return Sum(exp(scale * dot(j)) * v[j], (j, 1, n)) / Sum(exp(scale * dot(j)), (j, 1, n))

    return out(lambda j: c * d[j], s), out(lambda j: d[j], c * s)


@claim(
    rows="000-001",
    formula=r"\operatorname{attention}(\sqrt D\, Q, K, V) = \operatorname{attention}(Q, K, V, \text{scale} = 1)",
    if_fails="the scale given is applied on top of the default one, or the default is not D ** -0.5",
)
@given(x=attention_inputs(scales=(None,), integers=True))
def attention_without_a_scale(impl, x):
    """Attention without the scale is attention of queries that are larger by the root of the head dim."""
    larger = x.with_(q=x.q * x.q.shape[3] ** 0.5)
    one, other = impl.attention(*larger), impl.attention(*x, scale=1.0)
    agree(one.out, other.out)


@claim(
    rows="000-001 000-004",
    formula=r"s = 0 \implies \operatorname{out}_i = \frac{1}{|\Omega_i|} \sum_{j \in \Omega_i} v_j",
    if_fails="a scale of 0 counts as not given, or the mask is applied before it: 0 times -inf is NaN",
)
@given(x=attention_inputs(masks=True, causal=None, windows=True, scales=(0.0,)))
def a_scale_of_zero_gives_the_mean(impl, x):
    """A scale of 0 is obeyed: every query returns the mean of the values that it sees."""
    visible = x.visible().double()
    count = visible.sum(-1, keepdim=True)
    agree(impl.attention(*x, **x.options).out * count, visible @ x.values_of_heads())
