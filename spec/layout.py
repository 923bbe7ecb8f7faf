"""Layout: an operation depends on the numbers in a tensor, not on how they lie in memory.

The order of sums may depend on the layout, so results agree within their budgets, not bit for bit. Around and between
the elements lie NaNs: whoever reads a gap shows it.
"""

import torch

from properties import LAYOUTS, Layout, agree, attention_inputs, claim, exactly, given, laid, masked_rows, rows, st
from properties.strategies.norms import norm_gradients

STRIDES = "the kernel assumes contiguous inputs, or strides that another tensor has"

layouts = st.sampled_from(LAYOUTS)


def layouts_of(count):
    """As many layouts as there are tensors, each drawn by itself."""
    return st.tuples(*[layouts] * count)


def laid_each(tensors, chosen):
    """The tensors in the layouts chosen for them."""
    return [laid(t, layout) for t, layout in zip(tensors, chosen, strict=True)]


def agree_on(names, a, b):
    """The named results of two calls agree."""
    for name in names.split():
        agree(getattr(a, name), getattr(b, name))


@claim(
    rows="004-001 000-035",
    formula=r"\operatorname{softmax}(x)\ \text{depends on}\ x_i,\ \text{not on where}\ x_i\ \text{lies}",
    if_fails=STRIDES,
)
@given(x=rows(), layout=layouts)
def softmax_of_any_layout(impl, x, layout):
    """Softmax of a transposed, sliced or offset tensor is the softmax of its numbers."""
    agree(impl.softmax(laid(x, layout)), impl.softmax(x))


@claim(
    rows="004-001 000-035",
    formula=r"\operatorname{softmax}(x \mid m)\ \text{depends on}\ x_i, m_i,\ \text{not on where they lie}",
    if_fails=STRIDES + "; the mask has strides of its own",
)
@given(x_and_keep=masked_rows(), chosen=layouts_of(2))
def masked_softmax_of_any_layout(impl, x_and_keep, chosen):
    """Scores and mask may each lie in memory in their own way."""
    agree(impl.masked_softmax(*laid_each(x_and_keep, chosen)), impl.masked_softmax(*x_and_keep))


@claim(
    rows="001-106 000-035",
    formula=r"\operatorname{lse}(x)\ \text{depends on}\ x_i,\ \text{not on where}\ x_i\ \text{lies}",
    if_fails=STRIDES,
)
@given(x=rows(), layout=layouts)
def log_sum_exp_of_any_layout(impl, x, layout):
    """The log-sum-exp of a transposed, sliced or offset tensor is that of its numbers."""
    agree(impl.log_sum_exp(laid(x, layout)), impl.log_sum_exp(x))


@claim(
    rows="001-124 000-035",
    formula=r"\operatorname{merge}(o_1, \ell_1, o_2, \ell_2)\ \text{depends on the numbers, not on where they lie}",
    if_fails=STRIDES + "; lse has one dim less than out",
)
@given(x=attention_inputs(same_lengths=True, heads=((2, 2), (1, 1))), chosen=layouts_of(4))
def merged_attentions_of_any_layout(impl, x, chosen):
    """Partial attentions and their log-sum-exps may each lie in memory in their own way when they are merged."""
    parts = x.q, x.k[..., 0], x.k, x.q[..., 0]
    agree_on("out lse", impl.merge_lse(*laid_each(parts, chosen)), impl.merge_lse(*parts))


@claim(
    rows="001-124 000-035",
    formula=r"(m_1, l_1, a_1) \oplus (m_2, l_2, a_2)\ \text{depends on the numbers, not on where they lie}",
    if_fails=STRIDES,
)
@given(x=attention_inputs(same_lengths=True, heads=((2, 2), (1, 1))), chosen=layouts_of(6))
def merged_states_of_any_layout(impl, x, chosen):
    """States of an online softmax may each lie in memory in their own way when they are merged."""
    states = x.q[..., 0], x.k[..., 0].abs() + 1, x.q, x.k[..., 0], x.q[..., 0].abs() + 1, x.k
    agree_on("out lse", impl.merge(*laid_each(states, chosen)), impl.merge(*states))


@claim(
    rows="001-001 004-013 000-035",
    formula=r"\operatorname{attention}(Q, K, V)\ \text{depends on the numbers, not on where they lie}",
    if_fails=STRIDES + "; typical for heads that were split by a view, (B, L, H, D) in memory",
)
@given(x=attention_inputs(causal=None, windows=True), chosen=layouts_of(3))
def attention_of_any_layout(impl, x, chosen):
    """Queries, keys and values may each lie in memory in their own way: split heads by a view, slices, transposes."""
    agree(impl.attention(*laid_each(x, chosen), **x.options).out, impl.attention(*x, **x.options).out)


@claim(
    rows="001-001 004-013",
    formula=r"\operatorname{attention}(Q, K, V \mid m)\ \text{depends on}\ m_{ij},\ \text{not on where it lies}",
    if_fails="the mask is read with the strides of a contiguous one, or a broadcast dim is walked over",
)
@given(x=attention_inputs(masks=True), layout=layouts)
def mask_of_any_layout(impl, x, layout):
    """A mask may lie in memory in its own way, and be read there."""
    options = {name: laid(t, layout) if name == "mask" else t for name, t in x.options.items()}
    agree(impl.attention(*x, **options).out, impl.attention(*x, **x.options).out)


@claim(
    rows="001-001 004-013",
    formula=r"w_{ij} = \operatorname{softmax}_j(q_i \cdot k_j / \sqrt d)\ \text{whatever the strides of}\ q, k",
    if_fails=STRIDES,
)
@given(x=attention_inputs(causal=None), chosen=layouts_of(2))
def attention_weights_of_any_layout(impl, x, chosen):
    """The weights depend on the numbers in queries and keys alone."""
    agree(impl.attention_weights(*laid_each((x.q, x.k), chosen), **x.options),
          impl.attention_weights(x.q, x.k, **x.options))


@claim(
    rows="002-054 004-012",
    formula=r"[Q\,|\,K\,|\,V] = X W_{QKV}:\quad Q, K, V\ \text{are slices of one tensor}",
    if_fails="the stride between positions is taken to be H D, but a packed projection has 3 H D",
)
@given(x=attention_inputs(same_lengths=True, causal=None, heads=((1, 1), (2, 2), (3, 3))))
def packed_projections(impl, x):
    """Queries, keys and values may be slices of one packed projection: next to a head's queries lie its keys."""
    width = x.q.shape[3]
    packed = [Layout(f"slice {i} of a packed projection", swap=(-3, -2), row_gap=2 * width, offset=i * width)
              for i in range(3)]
    agree(impl.attention(*laid_each(x, packed), **x.options).out, impl.attention(*x, **x.options).out)


@claim(
    rows="001-090 000-031",
    formula=r"\operatorname{attention}(Q, K, V)\ \text{for}\ K, V\ \text{of stride}\ 0\ \text{along a dim}",
    if_fails="a stride of 0 is replaced by that of a contiguous tensor, or the tensor is written to",
)
@given(x=attention_inputs(causal=None), dims=st.tuples(*[st.sampled_from((0, 1, 2))] * 3))
def expanded_inputs(impl, x, dims):
    """A tensor expanded along batch, heads or positions is as good as its copies, whether queries, keys or values."""
    tensors = [t.narrow(dim, 0, 1).expand(t.shape) for t, dim in zip(x, dims, strict=True)]
    expanded = [Layout(f"expanded along dim {dim}", expand=dim) for dim in dims]
    agree(impl.attention(*laid_each(tensors, expanded), **x.options).out, impl.attention(*tensors, **x.options).out)


@claim(
    rows="001-111 004-015",
    formula=r"dQ, dK, dV\ \text{depend on the numbers, not on where they lie}",
    if_fails="the gradient of the output arrives transposed, as it does from a merged head, and is read as contiguous",
)
@given(x=attention_inputs(causal=None, integers=True), chosen=layouts_of(6))
def gradients_of_any_layout(impl, x, chosen):
    """The backward pass may be handed anything that the forward pass may, the incoming gradient in particular."""
    width = x.v.shape[3]
    dout = x.q[..., :1].expand(*x.q.shape[:3], width).contiguous()
    tensors = *x, *x.forward(), dout
    agree_on("dq dk dv", impl.attention_backward(*laid_each(tensors, chosen), **x.options),
             impl.attention_backward(*tensors, **x.options))


@claim(
    rows="003-015 000-035",
    formula=r"\operatorname{decode}(q, K, V)\ \text{depends on the numbers, not on where they lie}",
    if_fails="new rows, or the rows of the cache, are addressed with the strides of a contiguous tensor",
)
@given(x=attention_inputs(same_lengths=True, scales=(None, 0.25)), chosen=layouts_of(5), n_new=st.sampled_from((1, 2)))
def decoding_of_any_layout(impl, x, chosen, n_new):
    """New rows and caches may each lie in memory in their own way; the caches are written where they lie."""
    length = x.k.shape[2]
    new = min(n_new, length)
    tensors = x.q[:, :, -new:], x.k[:, :, -new:], x.v[:, :, -new:], x.k.flip(2), x.v.flip(2)
    lens = torch.full((x.q.shape[0],), length - new)
    agree_on("out k_cache v_cache", impl.decode(*laid_each(tensors, chosen), lens, **x.options),
             impl.decode(*tensors, lens, **x.options))


@claim(
    rows="004-026 000-035",
    formula=r"\operatorname{LN}(x; \gamma, \beta)\ \text{depends on}\ x_i,\ \text{not on where}\ x_i\ \text{lies}",
    if_fails=STRIDES,
)
@given(x=rows(least=2, most=129, moderate=True), chosen=layouts_of(3))
def layer_norm_of_any_layout(impl, x, chosen):
    """Layer norm of a transposed, sliced or offset tensor, with weights laid out in any way, is that of its numbers."""
    tensors = x, x[0].flip(0), x[0]
    agree(impl.layer_norm(*laid_each(tensors, chosen)), impl.layer_norm(*tensors))


@claim(
    rows="001-109 004-003 000-035",
    formula=r"\mathrm dx = y \circ (\mathrm dy - \langle y, \mathrm dy\rangle)\ \text{depends on the numbers, "
            r"not on where they lie}",
    if_fails="the gradient is read with the strides of the weights",
)
@given(x=rows(moderate=True), chosen=layouts_of(2))
def softmax_gradient_of_any_layout(impl, x, chosen):
    """The weights and the gradient that comes in may each lie in memory in their own way."""
    y, dy = torch.softmax(x, -1), x.flip(-1)
    agree(impl.softmax_backward(*laid_each((y, dy), chosen)), impl.softmax_backward(y, dy))


@claim(
    rows="001-166 000-035",
    formula=r"(\mathrm dx, \mathrm dw, \mathrm db)\ \text{depend on the numbers, not on where they lie}",
    if_fails="the gradient is read with the strides of the input",
)
@given(drawn=norm_gradients(), chosen=layouts_of(3))
def layer_norm_gradient_of_any_layout(impl, drawn, chosen):
    """Input, weight and the gradient that comes in may each lie in memory in their own way."""
    *tensors, eps = drawn
    agree_on("dx dw db", impl.layer_norm_backward(*laid_each(tensors, chosen), eps=eps),
             impl.layer_norm_backward(*tensors, eps=eps))


@claim(
    rows="001-069 000-035",
    formula=r"\operatorname{gelu}(x)_i\ \text{depends on}\ x_i,\ \text{not on where}\ x_i\ \text{lies}",
    if_fails="elements are counted instead of addressed: gaps and transposes are not looked at",
)
@given(x=rows(moderate=True), layout=layouts)
def gelu_of_any_layout(impl, x, layout):
    """An elementwise function of a transposed, sliced or offset tensor is that of its numbers."""
    agree(impl.gelu(laid(x, layout)), impl.gelu(x))


@claim(
    rows="000-033 000-035",
    formula=r"\operatorname{split\_kv}(q, k, v)\ \text{depends on the numbers, not on where they lie}",
    if_fails=STRIDES + "; a split starts at its first key times the stride of the keys",
)
@given(x=attention_inputs(scales=(None,)), n=st.integers(1, 5), chosen=layouts_of(3))
def split_keys_of_any_layout(impl, x, n, chosen):
    """Queries, keys and values may each lie in memory in their own way when the keys are split."""
    agree(impl.split_kv(*laid_each(x, chosen), n_splits=n).out, impl.split_kv(*x, n_splits=n).out)


@claim(
    rows="000-030 000-035",
    formula=r"\operatorname{repeat\_kv}(x, n)\ \text{depends on}\ x,\ \text{not on where it lies}",
    if_fails=STRIDES,
)
@given(x=attention_inputs(), n=st.integers(1, 4), layout=layouts)
def repeated_heads_of_any_layout(impl, x, n, layout):
    """Key-value heads are repeated bit for bit from a tensor that lies in memory in any way."""
    exactly(impl.repeat_kv(laid(x.k, layout), n), impl.repeat_kv(x.k, n))


@claim(
    rows="001-080 000-035",
    formula=r"\operatorname{split}(x),\ \operatorname{merge}(x)\ \text{depend on}\ x,\ \text{not on where it lies}",
    if_fails="view is called on a tensor whose strides do not allow it, or as_strided with the strides of another",
)
@given(x=attention_inputs(integers=True), layout=layouts)
def heads_of_any_layout(impl, x, layout):
    """Heads are split and merged bit for bit from a tensor that lies in memory in any way."""
    merged = impl.merge_heads(laid(x.q, layout))
    exactly(merged, impl.merge_heads(x.q))
    exactly(impl.split_heads(laid(merged.tensor(), layout), x.q.shape[1]), x.q)
