"""Rotary position embedding: which token has which position, and how exactly it is held."""

import torch

from properties import LAYOUTS, agree, claim, exactly, example, given, laid, refuted, st
from properties.strategies.positions import placed_tokens, positions_of, tokens

WHICH_POSITION = "a token is rotated by where it lies in the tensor, not by the position that it was given"


# ------------------------------------------------------------------------------------------ which token, which position

@claim(
    rows="001-159 002-101",
    formula=r"\operatorname{rope}(x_\pi, p_\pi) = \operatorname{rope}(x, p)_\pi",
    if_fails=WHICH_POSITION,
)
@given(placed=placed_tokens())
def positions_go_with_tokens(impl, placed):
    """In the opposite order, with their positions, tokens are rotated as before: the place in the tensor is nothing."""
    x, positions = placed
    agree(impl.rope(x.flip(2), positions.flip(-1)), impl.rope(x, positions).flip(2))


@claim(
    rows="001-159 002-101",
    formula=r"\operatorname{rope}(x, p)_b = \operatorname{rope}(x_b, p_b)",
    if_fails="all sequences are rotated by the positions of the first, or positions run on from one to the next",
)
@given(placed=placed_tokens(per_batch=True))
def every_sequence_has_its_positions(impl, placed):
    """Positions (B, L) rotate every sequence as its own row of them rotates it alone."""
    x, positions = placed
    y = impl.rope(x, positions)
    for b in range(len(x)):
        agree(y[b:b + 1], impl.rope(x[b:b + 1], positions[b]))


@claim(
    rows="001-159 002-101",
    formula=r"\operatorname{rope}(x, p) = \operatorname{rope}(x, (p, \dots, p))",
    if_fails="positions (L,) and (B, L) take different ways, or B and L are exchanged where they are equal",
)
@given(placed=placed_tokens(per_batch=False))
def positions_may_be_shared(impl, placed):
    """Positions (L,) are those of every sequence."""
    x, positions = placed
    agree(impl.rope(x, positions.expand(x.shape[0], -1)), impl.rope(x, positions))


@claim(
    rows="002-101",
    formula=r"x_1 = x_2 \implies \operatorname{rope}(x)_1 = \operatorname{rope}(x)_2 \quad \text{(heads)}",
    if_fails="the angle depends on the head, or heads read each other",
)
@given(placed=placed_tokens(2))
def heads_turn_alike(impl, placed):
    """All heads of a token turn alike, and what one holds does not touch another, not by a bit."""
    x, other, positions = placed
    n = x.shape[1]
    twice = impl.rope(torch.cat([x, x], 1), positions)
    agree(twice[:, :n], twice[:, n:])
    exactly(impl.rope(torch.cat([x, other], 1), positions)[:, :n], twice[:, :n])


@claim(
    rows="001-159",
    formula=r"\operatorname{rope}(x, p)_1 = \operatorname{rope}(y, p')_1 \quad \text{where } x_1 = y_1,\ p_1 = p'_1",
    if_fails="angles are computed once and kept from an earlier call, or those of another token are used",
)
@given(x=tokens(), p=positions_of(1), others=positions_of(1, near=True))
def tokens_turn_by_themselves(impl, x, p, others):
    """How a token turns does not depend on the positions of the others, nor on the call before, not by a bit."""
    length = x.shape[2]
    before, after = torch.arange(length), others + torch.arange(length)
    before[0] = after[0] = p[0]
    exactly(impl.rope(x, after)[:, :, 0], impl.rope(x, before)[:, :, 0])


@claim(
    rows="002-101 000-035",
    formula=r"\operatorname{rope}(x)\ \text{depends on}\ x_i,\ \text{not on where}\ x_i\ \text{lies}",
    if_fails="the kernel assumes contiguous heads; (B, L, H, D) is how projections leave them",
)
@given(placed=placed_tokens(), layout=st.sampled_from(LAYOUTS))
def rope_of_any_layout(impl, placed, layout):
    """rope of a transposed, sliced or offset tensor is that of its numbers."""
    x, positions = placed
    agree(impl.rope(laid(x, layout), positions), impl.rope(x, positions))


# ---------------------------------------------------------------------------------------------------- rounded positions

@claim(
    rows="001-160 002-102",
    formula=r"\operatorname{fl}(p) = p \quad (|p| \le 2^d), \quad d \text{ the digits of the format}",
    over="floats",
    corrects="angles_may_be_as_coarse_as_the_queries",
)
@given(e=st.integers(0, 30), below=st.integers(0, 3))
def positions_are_exact_up_to_the_precision(e, below, dtype):
    """A format of d binary digits holds every position up to 2^d: 256 in bfloat16, 2048 in float16, 2^24 in float32."""
    kind = getattr(torch, dtype)
    digits = 1 - round(torch.log2(torch.tensor(torch.finfo(kind).eps, dtype=torch.float64)).item())
    position = max(0, 2 ** min(e, digits) - below)
    assert torch.tensor(float(position), dtype=torch.float64).to(kind).double() == position, f"{position} is rounded"


@refuted(rows="001-160 002-102", formula=r"\operatorname{fl}(p + 1) - \operatorname{fl}(p) = 1", over="floats",
         dtypes=("float16", "bfloat16"))
@example(e=11)
@given(e=st.integers(0, 15))
def angles_may_be_as_coarse_as_the_queries(e, dtype):
    """Angles may be computed in the type of the queries: neighbouring tokens stay one position apart."""
    p = torch.tensor([2.0**e, 2.0**e + 1], dtype=torch.float64).to(getattr(torch, dtype)).double()
    assert p[1] - p[0] == 1, f"positions 2^{e} and 2^{e} + 1 are {float(p[1] - p[0]):g} apart"
