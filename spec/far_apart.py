"""Large tensors: what lies 2**31 elements apart, over memory that is reserved and hardly touched."""

from properties import Layout, agree, attention_inputs, claim, given, laid, rows, st

FAR = "2**31 elements apart"
WRAPS = "an offset is an index times a stride in 32 bits, and wraps around"
NOT_FLOAT64 = ("float32", "float16", "bfloat16")        # 2**31 elements of float64 are 16 GiB


@claim(
    rows="004-001 000-035",
    formula=r"\operatorname{softmax}(x)_i\ \text{depends on}\ x_i,\ \text{not on the distance of its rows}",
    if_fails=WRAPS, dtypes=NOT_FLOAT64, over="floats",
)
@given(x=rows(most=33))
def rows_far_apart(impl, x):
    """Rows of scores may lie 2**31 elements apart."""
    two = x[:1].repeat(2, 1)
    two[1] = two[1].flip(-1)
    agree(impl.softmax(laid(two, Layout(f"rows {FAR}", far=0))), impl.softmax(two))


@claim(
    rows="001-001 004-013 000-035",
    formula=r"\operatorname{attention}(Q, K, V)\ \text{depends on the numbers, not on the distance of the heads}",
    if_fails=WRAPS, dtypes=NOT_FLOAT64, over="floats",
)
@given(x=attention_inputs(causal=None, most=33, heads=((2, 2), (4, 2))), which=st.sampled_from((0, 1, 2)))
def heads_far_apart(impl, x, which):
    """The heads of queries, keys or values may lie 2**31 elements apart."""
    x = x.with_(q=x.q[:1, :2], k=x.k[:1], v=x.v[:1])
    tensors = list(x)
    tensors[which] = laid(tensors[which], Layout(f"heads {FAR}", far=1))
    agree(impl.attention(*tensors, **x.options).out, impl.attention(*x, **x.options).out)
