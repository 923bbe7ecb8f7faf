"""Rotary position embedding: queries and keys are turned by their positions, so that scores see only distances."""

import torch
from sympy import cos, sin, symbols

from properties import agree, claim, exactly, example, given, refuted, rejects, st
from properties.strategies.positions import frequency_bases, placed_tokens, shifts_of_positions, tokens

ANGLE = "the angle is not position * base^(-2i/D), or it is rounded to half precision"


def halves(x):
    """The first and the second components of all pairs: (x[i], x[i + D/2])."""
    return x[..., :x.shape[-1] // 2], x[..., x.shape[-1] // 2:]


def turned(x, positions, base):
    """The pairs of x as complex numbers, times exp(i position base^(-2i/D))."""
    half = x.shape[-1] // 2
    positions = positions[:, None] if positions.ndim == 2 else positions
    angle = positions[..., None].double() * base ** (-torch.arange(half).double() / half)
    z = torch.complex(*halves(x)) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


def scores(a, b):
    """The products of queries with the keys at the same place."""
    return (a * b).sum(-1)


# ------------------------------------------------------------------------------------------------------- definition

@claim(
    rows="002-101 001-159",
    formula=r"z_i = x_i + \mathrm i\, x_{i + D/2}, \qquad z_i \mapsto z_i\, e^{\mathrm i\, p\, \beta^{-2i/D}}",
    if_fails=f"other pairs, another sense of rotation, or {ANGLE}",
    corrects="both_layouts_give_the_same_vector",
)
@given(placed=placed_tokens(), base=frequency_bases())
def definition(impl, placed, base):
    """Pair i of a token at position p, (x_i, x_(i + D/2)), is turned by the angle p base^(-2i/D)."""
    x, positions = placed
    agree(impl.rope(x, positions, base=base), turned(x, positions, base))


@claim(
    rows="002-101",
    formula=r"\beta = 2^{D/2}: \quad \operatorname{rope}(x, 2^i p)_{(i)} = \operatorname{rope}(x_{(i)}, p)",
    if_fails="the exponent is not 2i/D: i/D, 2(i+1)/D, or the base is not obeyed",
)
@given(placed=placed_tokens(most=10, near=True), pair=st.integers(0, 4))
def each_pair_is_slower_by_one_factor(impl, placed, pair):
    """From one pair to the next the angle shrinks by the factor base^(2/D): the next pair, that much later, has it."""
    x, positions = placed
    half = x.shape[-1] // 2
    i = pair % half
    both = [i, i + half]
    agree(impl.rope(x, 2**i * positions, base=2.0**half)[..., both], impl.rope(x[..., both], positions))


@claim(
    rows="001-161 002-101",
    formula=r"\operatorname{rope}(x, 0) = x",
    if_fails="positions start at 1, or the table at position 0 is not exactly (1, 0)",
)
@given(x=tokens(integers=True), base=frequency_bases())
def position_0_is_the_identity(impl, x, base):
    """A token at position 0 is not changed, not by a bit."""
    exactly(impl.rope(x, torch.zeros(x.shape[2], dtype=torch.int64), base=base), x)


@claim(
    rows="001-161 002-101",
    formula=r"y_i^2 + y_{i + D/2}^2 = x_i^2 + x_{i + D/2}^2",
    if_fails="cosine and sine are of different angles, or the two components mix with those of other pairs",
)
@given(placed=placed_tokens(), base=frequency_bases())
def every_pair_keeps_its_norm(impl, placed, base):
    """Rotation keeps the length of every pair, and so that of the vector, at every position."""
    x, positions = placed
    (a, b), (c, d) = halves(impl.rope(x, positions, base=base)), halves(x)
    agree(a * a + b * b, c * c + d * d)


@every_pair_keeps_its_norm.proof(tie=lambda placed, base: {
    "x": float(placed[0].flatten()[0]), "y": float(placed[0][0, 0, 0, placed[0].shape[-1] // 2]),
    "p": float(placed[1].flatten()[0])})
def _():
    """For every pair and every position."""
    x, y, p = symbols("x y p", real=True)
    return (x * cos(p) - y * sin(p)) ** 2 + (y * cos(p) + x * sin(p)) ** 2, x**2 + y**2


@claim(
    rows="001-161",
    formula=r"\operatorname{rope}(\lambda x + \mu y, p) = \lambda \operatorname{rope}(x, p) "
            r"+ \mu \operatorname{rope}(y, p)",
    if_fails="values are clamped or normalised on the way",
)
@given(placed=placed_tokens(2), factors=st.sampled_from([(1.0, 1.0), (2.0, -1.0), (0.5, 4.0)]))
def linear(impl, placed, factors):
    """Rotation is linear in the vector."""
    x, y, positions = placed
    a, b = factors
    agree(impl.rope(a * x + b * y, positions), a * impl.rope(x, positions) + b * impl.rope(y, positions))


@claim(
    rows="001-161",
    formula=r"\operatorname{rope}(-x, p) = -\operatorname{rope}(x, p)",
    if_fails="rounding depends on a sign",
)
@given(placed=placed_tokens())
def odd(impl, placed):
    """The opposite vector turns into the opposite vector, to the bit."""
    x, positions = placed
    exactly(impl.rope(-x, positions), -impl.rope(x, positions))


@claim(rows="001-160", formula=r"D \text{ odd} \implies \text{an error}",
       if_fails="the last component is left out, or memory past the row is read")
@given(length=st.integers(1, 4), pairs=st.integers(0, 8))
def odd_head_dims_are_refused(impl, length, pairs):
    """A head of odd size does not consist of pairs, and is refused."""
    x = torch.ones(1, 2, length, 2 * pairs + 1, dtype=torch.float64)
    rejects(lambda: impl.rope(x, torch.arange(length)), match="head dim|even|odd")


# ------------------------------------------------------------------------------------------------- a group of rotations

@claim(
    rows="001-159",
    formula=r"R_n R_m = R_{m + n}",
    if_fails=f"positions stop at the end of a table, or {ANGLE}",
)
@given(placed=placed_tokens(), shift=shifts_of_positions())
def positions_add_up(impl, placed, shift):
    """Turning by one position and then by another is turning by their sum, however far from 0."""
    x, positions = placed
    agree(impl.rope(impl.rope(x, positions), torch.full_like(positions, shift)), impl.rope(x, positions + shift))


def one_pair(placed, shift):
    x, positions = placed
    return None if x.shape[-1] > 2 else {
        "x": float(x.flatten()[0]), "y": float(x.flatten()[1]), "m": int(positions.flatten()[0]), "t": shift}


@positions_add_up.proof(tie=one_pair)
def _():
    """For every pair; here of frequency 1, which is that of the first."""
    x, y, m, t = symbols("x y m t", real=True)
    a, b = x * cos(m) - y * sin(m), y * cos(m) + x * sin(m)
    return a * cos(t) - b * sin(t), x * cos(m + t) - y * sin(m + t)


@claim(
    rows="001-159",
    formula=r"R_{-p} R_p = I",
    if_fails="negative positions are clamped, wrap around, or are read as unsigned",
)
@given(placed=placed_tokens())
def negative_positions_turn_back(impl, placed):
    """The rotation by position -p undoes that by p: every position can be recovered from every other."""
    x, positions = placed
    agree(impl.rope(impl.rope(x, positions), -positions), x)


# -------------------------------------------------------------------------------------------- scores see only distances

layouts = st.sampled_from([(False, False), (True, True), (False, False), (True, True), (True, False), (False, True)])


def same_layout(neighbours):
    """Queries and keys pair their components in the same way."""
    return neighbours[0] == neighbours[1]


def in_layout(rope, x, positions, neighbours):
    """rope of x, whose pairs are `neighbours` (x[2i], x[2i + 1]), or half a head apart."""
    if not neighbours:
        return rope(x, positions)
    order = torch.arange(x.shape[-1]).view(-1, 2).T.flatten()
    return rope(x[..., order], positions)[..., order.argsort()]


@claim(
    rows="001-160 002-102 002-101 002-099 002-094",
    formula=r"\langle R_m q, R_n k\rangle = \langle R_{m + t}\, q, R_{n + t}\, k\rangle",
    if_fails=f"queries and keys turn in different senses or pair their components differently; or {ANGLE}",
    needs=same_layout,
    corrects="embeddings_may_be_rotated",
)
@given(placed=placed_tokens(2), gap=st.integers(-9, 9), shift=shifts_of_positions(), neighbours=layouts)
def scores_depend_on_the_distance(impl, placed, gap, shift, neighbours):
    """The score of a rotated query with a rotated key depends on the distance of their positions alone."""
    q, k, m = placed

    def score(m, n):
        return scores(in_layout(impl.rope, q, m, neighbours[0]), in_layout(impl.rope, k, n, neighbours[1]))

    agree(score(m + shift, m + gap + shift), score(m, m + gap))


def one_pair_each(placed, gap, shift, neighbours):
    q, k, m = placed
    return None if q.shape[-1] > 2 else {
        "q": q.flatten()[:2].tolist(), "k": k.flatten()[:2].tolist(), "m": int(m.flatten()[0]),
        "n": int(m.flatten()[0]) + gap}


@scores_depend_on_the_distance.proof(tie=one_pair_each)
def _():
    """For every pair; what is left holds m - n alone. Here of frequency 1, which is that of the first."""
    q1, q2, k1, k2, m, n = symbols("q_1 q_2 k_1 k_2 m n", real=True)
    left = ((q1 * cos(m) - q2 * sin(m)) * (k1 * cos(n) - k2 * sin(n))
            + (q2 * cos(m) + q1 * sin(m)) * (k2 * cos(n) + k1 * sin(n)))
    return left, (q1 * k1 + q2 * k2) * cos(m - n) + (q1 * k2 - q2 * k1) * sin(m - n)


@claim(
    rows="001-161 001-160",
    formula=r"\langle R_p q, R_p k\rangle = \langle q, k\rangle",
    if_fails="queries and keys are rotated differently",
)
@given(placed=placed_tokens(2))
def equal_positions_leave_the_score(impl, placed):
    """A query and a key at the same position have the score that they have without rotation."""
    q, k, positions = placed
    agree(scores(impl.rope(q, positions), impl.rope(k, positions)), scores(q, k))


@refuted(rows="002-101 001-160", formula=r"\operatorname{rope}(x_\pi)_{\pi^{-1}} = \operatorname{rope}(x), \quad "
                                         r"\pi \text{ puts neighbours half a head apart}")
@example(placed=(torch.ones(1, 1, 1, 4, dtype=torch.float64), torch.tensor([1])))
@given(placed=placed_tokens())
def both_layouts_give_the_same_vector(impl, placed):
    """Whether pairs are neighbours or half a head apart makes no difference: weights fit either."""
    agree(in_layout(impl.rope, *placed, True), in_layout(impl.rope, *placed, False))


@refuted(rows="001-162", formula=r"\langle W_Q R_m x, W_K R_n y\rangle "
                                 r"= \langle W_Q R_{m + t}\, x, W_K R_{n + t}\, y\rangle")
@example(placed=(*torch.eye(2, dtype=torch.float64).view(2, 1, 1, 1, 2), torch.tensor([0])), shift=1,
         wq=torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64), gap=1)
@given(placed=placed_tokens(2, least=2, most=2), gap=st.integers(-9, 9), shift=shifts_of_positions(),
       wq=st.sampled_from([torch.tensor(w, dtype=torch.float64) for w in
                           ([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]])]))
def embeddings_may_be_rotated(impl, placed, gap, shift, wq):
    """It is the word vectors that are rotated, before they are projected: scores still depend on the distance."""
    x, y, m = placed
    agree(scores(impl.rope(x, m + shift) @ wq, impl.rope(y, m + gap + shift)),
          scores(impl.rope(x, m) @ wq, impl.rope(y, m + gap)))


@claim(
    rows="002-101 001-160",
    formula=r"\operatorname{attention}(R_{p + t} Q, R_{p + t} K, V) = \operatorname{attention}(R_p Q, R_p K, V)",
    if_fails="values are rotated as well, or keys are rotated twice",
    corrects="values_may_be_rotated_too",
)
@given(placed=placed_tokens(3, most=16, near=True), shift=shifts_of_positions(), causal=st.booleans())
def attention_sees_only_distances(impl, placed, shift, causal):
    """With rotated queries and keys and values as they are, moving all positions by as much changes no output."""
    q, k, v, p = placed
    agree(impl.attention(impl.rope(q, p + shift), impl.rope(k, p + shift), v, causal=causal).out,
          impl.attention(impl.rope(q, p), impl.rope(k, p), v, causal=causal).out)


@refuted(rows="002-101", formula=r"\operatorname{attention}(R_{p + t} Q, R_{p + t} K, R_{p + t} V) "
                                 r"= \operatorname{attention}(R_p Q, R_p K, R_p V)")
@example(placed=(*torch.ones(3, 1, 1, 1, 2, dtype=torch.float64), torch.tensor([0])), shift=1)
@given(placed=placed_tokens(3, most=16, near=True), shift=shifts_of_positions())
def values_may_be_rotated_too(impl, placed, shift):
    """Values are rotated with queries and keys, and the output depends on distances alone."""
    *parts, p = placed
    agree(impl.attention(*(impl.rope(x, p + shift) for x in parts)).out,
          impl.attention(*(impl.rope(x, p) for x in parts)).out)
