"""Merging partial softmaxes: the step that online softmax, tiled attention, split-KV and ring attention share.

A state (m, l, acc) stands for some keys: m is a reference (the running maximum), l = sum exp(s_j - m) the denominator
and acc = sum exp(s_j - m) v_j the numerator.  No keys is (-inf, 0, 0).
"""

from functools import reduce

import torch
from sympy import IndexedBase, Sum, exp, symbols

from properties import agree, claim, example, given, refuted, rows, st
from properties.strategies.states import hidden_rows, states

INF = float("inf")


def state_of(scores, values):
    """The state of keys with scores (..., n) and values (n, d); hidden keys have score -inf."""
    m = scores.amax(-1)
    e = (scores - m.masked_fill(m == -INF, 0)[..., None]).exp()
    return m, e.sum(-1), e @ values


def value_of(state):
    """(acc / l, m + log l) of a state; (0, -inf) of no keys."""
    m, l, acc = state                                                                          # noqa: E741
    return acc / l.where(l > 0, 1)[..., None], m + l.log()


def stands_for(merged, state):
    """A merged state is the one that was built from all keys at once."""
    out, lse = value_of(state)
    agree(merged.out, out)
    agree(merged.lse, lse)


def empty_like(state):
    """The state of no keys, of the same shapes."""
    m, l, acc = state                                                                          # noqa: E741
    return torch.full_like(m, -INF), torch.zeros_like(l), torch.zeros_like(acc)


def same_state(a, b):
    """Two results stand for the same keys: acc / l and m + log l agree, or out and lse of finished ones."""
    agree(a.out, b.out)
    agree(a.lse, b.lse)


# ---------------------------------------------------------------------------------------------------- what it means

@claim(
    rows="001-124 001-123 001-106 001-104",
    formula=r"\frac{e^{m_1 - m}\mathrm{acc}_1 + e^{m_2 - m}\mathrm{acc}_2}{e^{m_1 - m} l_1 + e^{m_2 - m} l_2} "
            r"= \frac{\sum_j e^{s_j} v_j}{\sum_j e^{s_j}}, \qquad m = \max(m_1, m_2)",
    if_fails="a state is not rescaled to the common maximum, or the denominator is not merged with the numerator",
    corrects="rescaled_weights_need_no_common_denominator",
)
@given(x=hidden_rows(least=2), cut=st.integers(0, 255))
def merge_equals_whole(impl, x, cut):
    """The states of two blocks of keys merge into the softmax of all keys, and into its log-sum-exp."""
    n = x.shape[1]
    cut, unit = 1 + cut % (n - 1), torch.eye(n, dtype=torch.float64)
    stands_for(impl.merge(*state_of(x[:, :cut], unit[:cut]), *state_of(x[:, cut:], unit[cut:])), state_of(x, unit))


def blocks_of_the_first_row(x, cut):
    cut = 1 + cut % (x.shape[1] - 1)
    a, b = x[0, :cut], x[0, cut:]
    if not x[0].isfinite().all():
        return None
    return {"x": a.tolist(), "y": b.tolist(), "k": len(a), "n": len(b), "v": [1.0] + [0.0] * (len(a) - 1),
            "w": [0.0] * len(b), "p": float(a.max()), "q": float(b.max()), "r": float(x[0].max())}


@merge_equals_whole.proof(tie=blocks_of_the_first_row)
def _():
    """For blocks of any sizes k and n, any values v and w, and any references p, q and r, maxima among them."""
    j, k, n = symbols("j k n", integer=True, positive=True)
    x, y, v, w = (IndexedBase(name, real=True) for name in "xyvw")
    p, q, r = symbols("p q r", real=True)
    one = [Sum(exp(x[j] - p) * factor, (j, 1, k)) for factor in (v[j], 1)]
    two = [Sum(exp(y[j] - q) * factor, (j, 1, n)) for factor in (w[j], 1)]
    acc, total = (exp(p - r) * a + exp(q - r) * b for a, b in zip(one, two, strict=True))
    whole = Sum(exp(x[j]) * v[j], (j, 1, k)) + Sum(exp(y[j]) * w[j], (j, 1, n))
    return acc / total, whole / (Sum(exp(x[j]), (j, 1, k)) + Sum(exp(y[j]), (j, 1, n)))


@claim(
    rows="001-106 001-104",
    formula=r"\operatorname{softmax}(s) = (\emptyset \oplus s_1) \oplus s_2 \oplus \dots \oplus s_n",
    if_fails="a numerator that is not rescaled when the maximum grows, or a first block that starts from m = 0",
)
@given(x=hidden_rows(most=8))
def one_key_at_a_time(impl, x):
    """Folding in one key after the other, from the state of no keys, gives the softmax of all in O(1) memory."""
    unit = torch.eye(x.shape[1], dtype=torch.float64)
    keys = [state_of(x[:, j:j + 1], unit[j:j + 1]) for j in range(x.shape[1])]
    folded = reduce(lambda state, key: impl.merge(*state, *key), keys, empty_like(keys[0]))
    agree(folded.out, impl.softmax(x))
    agree(folded.lse, impl.log_sum_exp(x))


@claim(
    rows="001-123",
    formula=r"(m, l, \mathrm{acc}) \sim (m + c,\; e^{-c} l,\; e^{-c}\mathrm{acc})",
    if_fails="a state is scaled by the wrong maximum, or only one of numerator and denominator is",
)
@given(ab=states(2), c=st.sampled_from([1.0, -1.0, 8.0, -8.0, 32.0]))
def reference_is_free(impl, ab, c):
    """A state says the same at any reference: e^(m1 - m) e^(s - m1) = e^(s - m), whichever m is kept."""
    (m, l, acc), other = ab                                                                    # noqa: E741
    factor = torch.tensor(-c, dtype=torch.float64).exp()
    same_state(impl.merge(m + c, l * factor, acc * factor, *other), impl.merge(m, l, acc, *other))


@reference_is_free.proof(tie=lambda ab, c: first_rows(ab, "ab") and first_rows(ab, "ab") | {"c": c})
def _():
    """For any states, any c, and any references r and s that the merged states are kept at."""
    (m, l, acc), other, (r, s, c) = symbolic("a"), symbolic("b"), symbols("r s c", real=True)  # noqa: E741
    return (finished(merged((m + c, l * exp(-c), acc * exp(-c)), other, r)),
            finished(merged((m, l, acc), other, s)))


def symbolic(name):
    """A state in SymPy: its reference, denominator and numerator."""
    return (*symbols(f"{name}_m {name}_l", real=True), symbols(f"{name}_acc", real=True))


def merged(a, b, reference):
    """Two states in SymPy, merged at any reference."""
    one, two = exp(a[0] - reference), exp(b[0] - reference)
    return reference, one * a[1] + two * b[1], one * a[2] + two * b[2]


def finished(state):
    return state[2] / state[1]


def first_rows(drawn, names):
    """The first rows of drawn states, bound to the names of `symbolic` ones; none where one of them is empty."""
    rows_ = {f"{name}_{part}": float(x.flatten()[0]) for name, state in zip(names, drawn, strict=True)
             for part, x in zip(("m", "l", "acc"), state, strict=True)}
    top = max(rows_[f"{name}_m"] for name in names)
    return rows_ | {"r": top, "s": top + 1, "t": top - 1} if all(abs(x) < INF for x in rows_.values()) else None


# ---------------------------------------------------------------------------------------------------------- a monoid

@claim(
    rows="001-125 000-033",
    formula=r"(a \oplus b) \oplus c = a \oplus (b \oplus c)",
    if_fails="the merged state keeps a maximum, denominator or numerator that do not belong together",
)
@given(abc=states(3))
def associative(impl, abc):
    """In which order neighbours are merged makes no difference: blocks may be merged in a tree."""
    a, b, c = abc
    same_state(impl.merge(*impl.merge(*a, *b), *c), impl.merge(*a, *impl.merge(*b, *c)))


@associative.proof(tie=lambda abc: first_rows(abc, "abc"))
def _():
    """For any states, at any references: r, s, t and 0 need not be maxima."""
    a, b, c, (r, s, t) = symbolic("a"), symbolic("b"), symbolic("c"), symbols("r s t", real=True)
    return finished(merged(merged(a, b, r), c, s)), finished(merged(a, merged(b, c, t), 0))


@claim(
    rows="001-125 001-132 000-033",
    formula=r"a \oplus b = b \oplus a",
    if_fails="one side is taken as the newer one: only it is rescaled, or its maximum is kept",
)
@given(ab=states(2))
def commutative(impl, ab):
    """Which of two states comes first makes no difference."""
    a, b = ab
    same_state(impl.merge(*a, *b), impl.merge(*b, *a))


@commutative.proof(tie=lambda ab: first_rows(ab, "ab"))
def _():
    """For any states, at any references."""
    a, b, (r, s) = symbolic("a"), symbolic("b"), symbols("r s", real=True)
    return finished(merged(a, b, r)), finished(merged(b, a, s))


@claim(
    rows="001-125 001-123 000-033",
    formula=r"a \oplus (-\infty, 0, 0) = a = (-\infty, 0, 0) \oplus a",
    if_fails="no guard where a maximum is -inf: exp(-inf - (-inf)) is NaN",
)
@given(a=states(1))
def no_keys_is_the_identity(impl, a):
    """Merging with the state of no keys changes nothing, on either side, also where both have seen none."""
    state, nothing = a[0], empty_like(a[0])
    stands_for(impl.merge(*state, *nothing), state)
    stands_for(impl.merge(*nothing, *state), state)


@claim(
    rows="001-132 001-125 000-033",
    formula=r"a_1 \oplus a_2 \oplus a_3 = a_{\pi(1)} \oplus a_{\pi(2)} \oplus a_{\pi(3)}",
    if_fails="the running maximum is not kept, or is reset when a block has a smaller one",
)
@given(blocks=states(3), order=st.sampled_from([(2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)]))
def block_order_is_irrelevant(impl, blocks, order):
    """The blocks of keys may be visited in any order: rising and falling maxima, empty blocks first or last."""
    def fold(blocks):
        return reduce(lambda state, block: impl.merge(*state, *block), blocks[1:], blocks[0])

    same_state(fold(blocks), fold([blocks[i] for i in order]))


# --------------------------------------------------------------------------------------------- finished attentions

@claim(
    rows="001-124 001-107",
    formula=r"(\mathrm{lse}, 1, o) \sim (m, l, \mathrm{acc}), \qquad "
            r"o = \mathrm{acc} / l, \quad \mathrm{lse} = m + \log l",
    if_fails="weights of the two sides exchanged, or lse in another base than e",
)
@given(ab=states(2))
def finished_is_a_state_of_one_key(impl, ab):
    """A finished attention merges as the state m = lse, l = 1, acc = out."""
    (m1, l1, out1), (m2, l2, out2) = ab
    one, two = ((l > 0).double() for l in (l1, l2))                                            # noqa: E741
    same_state(impl.merge_lse(out1, m1, out2, m2), impl.merge(m1, one, out1, m2, two, out2))


@claim(
    rows="001-124 001-106",
    formula=r"\mathrm{lse} = \log\bigl(e^{\mathrm{lse}_1} + e^{\mathrm{lse}_2}\bigr), \qquad "
            r"\mathrm{out} = e^{\mathrm{lse}_1 - \mathrm{lse}} \mathrm{out}_1 "
            r"+ e^{\mathrm{lse}_2 - \mathrm{lse}} \mathrm{out}_2",
    if_fails="weights exchanged or not normalised, lse in another base than e, or a formula that overflows far from 0",
)
@given(ab=states(2))
def finished_attentions_merge(impl, ab):
    """Finished attentions are averaged with weights e^(lse_i - lse), where lse is the log-sum-exp of theirs."""
    (lse1, _, out1), (lse2, _, out2) = ab
    found, lse = impl.merge_lse(out1, lse1, out2, lse2), torch.logaddexp(lse1, lse2)
    first, second = ((x - lse.masked_fill(lse == -INF, 0)).exp()[..., None] for x in (lse1, lse2))
    agree(found.lse, lse)
    agree(found.out, first * out1 + second * out2)


@refuted(rows="001-124", formula=r"p^{(1)} e^{m_1 - m} = p_{1:k}, \qquad p^{(1)} = \operatorname{softmax}(x_{1:k})")
@example(x=torch.zeros(1, 2, dtype=torch.float64), cut=0)
@given(x=rows(least=2, moderate=True), cut=st.integers(0, 255))
def rescaled_weights_need_no_common_denominator(impl, x, cut):
    """To merge two blocks it is enough to rescale each block's weights by e^(m_i - m)."""
    block = x[:, : 1 + cut % (x.shape[1] - 1)]
    factor = (block.amax(-1) - x.amax(-1)).exp()[:, None]
    agree(impl.softmax(block) * factor, impl.softmax(x)[:, : block.shape[1]])
