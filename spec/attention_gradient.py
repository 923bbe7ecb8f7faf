"""The gradient of attention: what it is, what it conserves, and that heads of a group add up."""

from properties import agree, attention_inputs, claim, given, st
from properties.strategies.values import MODERATE, arrays, tensor

SCALES = (None, 1.0, 0.25, None, 0.5, 0.0, -0.25)


@st.composite
def inputs_and_dout(draw, **options):
    """Inputs of attention and a gradient of its output."""
    x = draw(attention_inputs(**{"causal": None, "masks": True, "scales": SCALES, "most": 65} | options))
    return x, tensor(draw(arrays((*x.q.shape[:3], x.v.shape[3]), table=MODERATE)))


def over_group(x, per_head):
    """Sum over the query heads that share a KV head."""
    return per_head.unflatten(1, (x.k.shape[1], x.groups)).sum(2)


@claim(
    rows="004-015 001-111 001-108",
    formula=r"dV = P^\top dO, \quad dS = P \circ (dO\,V^\top - \delta), \quad dQ = c\,dS\,K, \quad dK = c\,dS^\top Q",
    if_fails="a mask, the scale or the causal flag of the forward pass is not that of the backward pass, delta is "
             "left out, or the width of the values is taken to be that of the keys",
)
@given(drawn=inputs_and_dout(regimes=("rising keys", "falling keys", "dominant key", "ties", "values with a mean")))
def gradient_of_attention(impl, drawn):
    """The gradients are those of the formulas, whatever hides keys and whatever the scale."""
    x, dout = drawn
    p, (out, lse) = x.weights(), x.forward()
    found = impl.attention_backward(*x, out, lse, dout, **x.options)
    ds = p * (dout @ x.values_of_heads().mT - (dout * out).sum(-1, keepdim=True))
    agree(found.dq, x.scale * (ds @ x.k.repeat_interleave(x.groups, 1)))
    agree(found.dk, over_group(x, x.scale * (ds.mT @ x.q)))
    agree(found.dv, over_group(x, p.mT @ dout))


@claim(
    rows="001-110",
    formula=r"\textstyle\sum_j dV_j = \sum_i dO_i, \qquad \sum_j dK_j = c \sum_i q_i \sum_j dS_{ij} = 0",
    if_fails="queries of the last block are not counted in dK and dV, or the weights of the backward pass sum to "
             "something other than one",
)
@given(drawn=inputs_and_dout())
def gradients_of_keys_and_values_add_up(impl, drawn):
    """Over all keys dK sums to 0, and dV to the incoming gradients of the queries that see a key."""
    x, dout = drawn
    found = impl.attention_backward(*x, *x.forward(), dout, **x.options)
    agree(found.dk.sum(2), 0.0)
    agree(found.dv.sum(2), over_group(x, dout * x.visible().any(-1, keepdim=True)).sum(2))


@claim(
    rows="001-090 001-111",
    formula=r"dK_g = \textstyle\sum_{h\,\in\,g} dK^{(h)}, \qquad dV_g = \sum_{h\,\in\,g} dV^{(h)}",
    if_fails="query heads of a group overwrite each other's dK and dV, or belong to another KV head than in the "
             "forward pass",
)
@given(drawn=inputs_and_dout(heads=((2, 1), (3, 1), (6, 2), (4, 2))))
def gradients_of_a_group_add_up(impl, drawn):
    """Keys and values that several query heads read get the sum of the gradients that repeated ones get."""
    x, dout = drawn
    whole = impl.attention_backward(*x, *x.forward(), dout, **x.options)
    each = x.with_(k=x.k.repeat_interleave(x.groups, 1), v=x.values_of_heads())
    repeated = impl.attention_backward(*each, *x.forward(), dout, **x.options)
    split = (x.q.shape[0], x.k.shape[1], x.groups, x.k.shape[2], -1)
    agree(whole.dq, repeated.dq)
    agree(whole.dk, repeated.dk.reshape(*split).sum(2))
    agree(whole.dv, repeated.dv.reshape(*split).sum(2))


@claim(
    rows="002-045 002-067",
    formula=r"j \notin \Omega_i\ \forall i \implies dK_j = dV_j = 0, \qquad \Omega_i = \emptyset \implies dQ_i = 0",
    if_fails="hidden keys get gradients, or the NaN of a row without keys, exp(-inf - -inf), reaches all others",
)
@given(drawn=inputs_and_dout())
def what_is_not_seen_has_no_gradient(impl, drawn):
    """A key that no query sees gets no gradient, and neither does a query that sees no key."""
    x, dout = drawn
    found, visible = impl.attention_backward(*x, *x.forward(), dout, **x.options), x.visible()
    unseen = ~visible.any(2).unflatten(1, (x.k.shape[1], x.groups)).any(2)
    agree(found.dk[unseen], 0.0)
    agree(found.dv[unseen], 0.0)
    agree(found.dq[~visible.any(-1)], 0.0)
