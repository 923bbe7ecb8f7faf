"""Views of tensors: what transpose, view, reshape and contiguous do to memory, and how heads are split and merged."""

import torch
from sympy import symbols

from properties import claim, exactly, example, given, refuted, st
from properties.strategies.strided import counted, strided_and_shape

SHAPES = st.tuples(*[st.integers(0, 4)] * 4)                # (B, H, S, D), no dim excepted
FILLED = st.tuples(*[st.integers(1, 4)] * 4)
HEADS_OF_FOUR = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))   # (B, L, h, d)
DISTINCT = 251                                              # a prime below 256: exact in every dtype


def aliases(a, b):
    """Whether a starts in b's memory."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def can_view(x, shape):
    """Whether x.view(shape) is accepted."""
    try:
        x.view(shape)
    except RuntimeError:
        return False
    return True


def described_by_strides(place):
    """Whether the places in memory are first + sum_d i_d stride_d for some strides, for every index (i_1, i_2, ...)."""
    first = place.flatten()[0]
    expected = first.expand(place.shape)
    for dim, size in enumerate(place.shape):
        stride = place.select(dim, 1).flatten()[0] - first if size > 1 else 0
        steps = torch.arange(size) * stride
        expected = expected + steps.view([size if d == dim else 1 for d in range(place.ndim)])
    return torch.equal(expected, place)


@claim(
    rows="000-034",
    formula=r"\operatorname{stride}(x^{\top_{1,2}}) = (s_0, s_2, s_1, s_3)",
)
@given(shape=SHAPES)
def transpose_is_a_view(shape):
    """Transposing copies nothing: two strides change places, and a write to the result is a write to the input."""
    x = counted(*shape)
    y = x.transpose(1, 2)
    a, b, c, d = x.stride()
    assert y.stride() == (a, c, b, d) and y.data_ptr() == x.data_ptr(), f"strides {x.stride()} became {y.stride()}"
    y += 1
    assert torch.equal(x, counted(*shape) + 1), "a write to the transposed tensor did not reach the original"


def two_heads_and_two_positions(shape):
    """at least two heads, at least two positions, and no empty dim"""
    batch, heads, length, width = shape
    return heads >= 2 and length >= 2 and batch * width > 0


@claim(
    rows="000-035",
    formula=r"x^{\top_{1,2}}\ \text{non-contiguous} \iff H \ge 2,\ S \ge 2,\ B D > 0",
    needs=two_heads_and_two_positions,
)
@given(shape=SHAPES)
def transposed_is_not_contiguous(shape):
    """Transposing heads and positions of a contiguous tensor leaves one that is not; with one head, or one position as
    in every decoding step, it still is."""
    assert not counted(*shape).transpose(1, 2).is_contiguous(), f"{shape} is contiguous after the transpose"


@refuted(
    rows="000-036",
    formula=r"\texttt{x.view(...)}\ \text{works} \implies x\ \text{contiguous}",
)
@example(x_and_shape=(counted(3, 4).mT, (2, 2, 3)))
@given(x_and_shape=strided_and_shape())
def view_requires_a_contiguous_tensor(x_and_shape):
    """A view of a tensor that is not contiguous is refused."""
    x, shape = x_and_shape
    assert x.is_contiguous() or not can_view(x, shape), f"strides {x.stride()} can be viewed as {shape}"


@claim(
    rows="000-036",
    formula=r"\exists\, t\ \forall i:\ \operatorname{place}(i) = \operatorname{place}(0) + \textstyle\sum_d i_d\, t_d "
            r"\quad\text{(dims merge where } s_d = s_{d+1} n_{d+1}\text{)}",
    corrects="view_requires_a_contiguous_tensor",
)
@given(x_and_shape=strided_and_shape())
def view_requires_strides_for_the_new_shape(x_and_shape):
    """A view works exactly where strides exist for the new shape: dims that are merged must lie in memory as one."""
    x, shape = x_and_shape
    possible = described_by_strides(x.reshape(shape))          # x holds its own places in memory
    assert can_view(x, shape) == possible, f"{tuple(x.shape)} with strides {x.stride()} as {shape}: {possible} expected"


@claim(
    rows="000-037",
    formula=r"\texttt{x.transpose(1, 2).view(B, S, H D)}\ \text{raises} \iff H, S, D \ge 2,\ B > 0",
)
@given(shape=SHAPES)
def merging_heads_by_view_raises(shape):
    """Without contiguous(), merging the heads by view is refused exactly where heads, positions and head dim are all at
    least 2 (and the batch is not empty): code that forgets it passes every test with one position."""
    batch, heads, length, width = shape
    accepted = can_view(counted(*shape).transpose(1, 2), (batch, length, heads * width))
    assert accepted == (batch == 0 or min(heads, length, width) < 2), f"{shape}: accepted is {accepted}"


@refuted(
    rows="000-040",
    formula=r"\texttt{x.contiguous()}\ \text{is a copy}",
)
@example(shape=(1, 1, 1, 1))
@given(shape=FILLED)
def contiguous_always_copies(shape):
    """contiguous() allocates new memory and copies."""
    x = counted(*shape).transpose(1, 2)
    assert not aliases(x.contiguous(), x), f"{shape}: contiguous() returned the same memory"


@claim(
    rows="000-040",
    formula=r"\texttt{x.contiguous()}\ \text{is a copy} \iff x\ \text{is not contiguous}",
    corrects="contiguous_always_copies",
)
@given(x_and_shape=strided_and_shape())
def contiguous_copies_only_if_needed(x_and_shape):
    """contiguous() copies a tensor that is not contiguous; otherwise it returns the tensor itself."""
    x, _ = x_and_shape
    y = x.contiguous()
    assert torch.equal(x, y) and y.is_contiguous(), "contiguous() changed the values or is not contiguous"
    assert (y is x) == x.is_contiguous() and aliases(x, y) == x.is_contiguous(), f"strides {x.stride()}"


@claim(
    rows="000-042",
    formula=r"\texttt{x.reshape(s)} = \texttt{x.contiguous().view(s)}",
)
@given(x_and_shape=strided_and_shape())
def reshape_views_or_copies(x_and_shape):
    """reshape has the values of contiguous().view(), but it is a view, so that writes reach the input, wherever view
    alone would have worked."""
    x, shape = x_and_shape
    y = x.reshape(shape)
    assert torch.equal(y, x.contiguous().view(shape)), "different values"
    assert aliases(y, x) == can_view(x, shape), f"strides {x.stride()} as {shape}: the same memory is {aliases(y, x)}"


@claim(
    rows="000-038 000-039",
    formula=r"\texttt{x.transpose(1, 2).contiguous().view(B, S, H D)}_{b, s, h D + d} = x_{b, h, s, d}",
)
@given(shape=FILLED)
def merging_heads_concatenates_them(shape):
    """Transpose, contiguous and view put the heads of each position side by side, in memory too."""
    batch, heads, length, width = shape
    x = counted(*shape)
    merged = x.transpose(1, 2).contiguous().view(batch, length, -1)
    assert torch.equal(merged, torch.cat([x[:, h] for h in range(heads)], dim=-1)), "not the heads side by side"
    by_position = [x[b, h, s] for b in range(batch) for s in range(length) for h in range(heads)]
    assert torch.equal(merged.flatten(), torch.cat(by_position)), "memory is not ordered by position, head, feature"


@refuted(
    rows="000-039",
    formula=r"\texttt{x.view(B, S, H D)} = [x_1, \dots, x_H]",
)
@example(shape=(1, 2, 2, 1))
@given(shape=FILLED)
def view_alone_concatenates_heads(shape):
    """view(B, S, H D) without the transpose concatenates the heads: its shape is right."""
    batch, heads, length, width = shape
    x = counted(*shape)
    side_by_side = torch.cat([x[:, h] for h in range(heads)], dim=-1)
    assert torch.equal(x.view(batch, length, -1), side_by_side), f"not for {shape}"


@refuted(
    rows="000-041",
    formula=r"[o_1, \dots, o_H]\, W_O \ne \textstyle\sum_h o_h W_O^{(h)}",
)
@example(shape=(1, 2, 2, 2))
@given(shape=FILLED)
def merging_heads_needs_a_copy(shape):
    """The output projection needs the heads side by side in memory, hence a copy."""
    x = counted(*shape)
    w = counted(shape[1], shape[3], 3)
    merged = x.transpose(1, 2).contiguous().flatten(2) @ w.flatten(0, 1)
    assert not torch.equal(torch.einsum("bhsd,hdo->bso", x, w), merged), f"{shape}: the same without a copy"


@claim(
    rows="000-041",
    formula=r"[o_1, \dots, o_H]\, W_O = \textstyle\sum_h o_h W_O^{(h)}",
    corrects="merging_heads_needs_a_copy view_alone_concatenates_heads",
)
@given(shape=FILLED)
def heads_are_projected_where_they_are(shape):
    """Projecting concatenated heads is projecting each by its own rows of W_O, and adding up: no copy is needed."""
    x, w = counted(*shape), counted(shape[1], shape[3], 3)
    merged = x.transpose(1, 2).contiguous().flatten(2) @ w.flatten(0, 1)
    exactly(sum(x[:, h] @ w[h] for h in range(shape[1])), merged)


def _tie_projection(shape):
    if shape[1] != 2 or shape[3] != 2:
        return None
    x, w = counted(*shape), counted(2, 2, 3)
    return {"x": x[0, :, 0].flatten().tolist(), "w": w[..., 0].flatten().tolist()}


@heads_are_projected_where_they_are.proof(tie=_tie_projection)
def _():
    """For two heads of two features."""
    from sympy import Matrix
    x, w = symbols("x1:5", real=True), symbols("w1:5", real=True)
    by_head = sum((Matrix([x[2 * h:2 * h + 2]]) * Matrix(w[2 * h:2 * h + 2]))[0] for h in range(2))
    return by_head, (Matrix([x]) * Matrix(w))[0]


@claim(
    rows="001-080 000-039",
    formula=r"\operatorname{split}(x)_{b, h, l, i} = x_{b, l, h d + i}",
    if_fails="another dim than the last is split, or (B, h, L, d) is viewed instead of transposed",
)
@given(sizes=HEADS_OF_FOUR)
def a_head_is_a_slice_of_the_features(impl, sizes):
    """Head h of the split tensor is the features h d to (h + 1) d of every position, bit for bit."""
    b, length, h, d = sizes
    x = (counted(b, length, h * d) % DISTINCT).double()
    heads = impl.split_heads(x, h)
    for head in range(h):
        exactly(heads[:, head], x[..., head * d:(head + 1) * d])


@claim(
    rows="001-080",
    formula=r"\operatorname{merge}(\operatorname{split}(x)) = x",
    if_fails="the inverse transpose is missing before heads are merged",
)
@given(sizes=HEADS_OF_FOUR)
def merging_undoes_splitting(impl, sizes):
    """Splitting into heads and merging them again changes nothing, bit for bit."""
    b, length, h, d = sizes
    x = (counted(b, length, h * d) % DISTINCT).double()
    exactly(impl.merge_heads(impl.split_heads(x, h)), x)
