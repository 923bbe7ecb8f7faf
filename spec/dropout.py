"""Dropout: elements are kept at random and scaled up, so that nothing needs scaling when the network is used."""

import torch

from properties import agree, arrays, claim, exactly, example, given, plausible, refuted, rejects, rows, seed_from, st
from properties import statistical, tensor
from properties.numerics.statistics import binomial_p_value
from properties.strategies.states import special_rows

PROBABILITIES = (0.5, 0.25, 0.75, 0.125, 0.1, 0.9, 0.0, 1.0)
seeds = st.sampled_from([0, 1, 2, 3, 42, 12345, 2**31 - 1, 2**31, 2**32 - 1])
ps = st.sampled_from(PROBABILITIES)
some = st.sampled_from([p for p in PROBABILITIES if 0 < p < 1])
shapes = st.sampled_from([(64, 64), (4096,), (2, 2, 32, 32), (1, 4096), (3, 5, 7, 39), (512, 8)])


def ones(shape):
    return torch.ones(shape, dtype=torch.float64)


def kept(result):
    """The mask as booleans in row-major order."""
    return tensor(result.mask).flatten() != 0


def equal_ones_plausible(a, b, p, what):
    """The places where two masks agree are binomial, if they are drawn independently: (1 - p)^2 + p^2 each."""
    same = int((a == b).sum())
    plausible(binomial_p_value(same, a.numel(), p * p + (1 - p) * (1 - p)),
              what=f"agreement of {what} at {same} of {a.numel()} places")


# ----------------------------------------------------------------------------------------------------------- the values

@claim(
    rows="001-188 002-036",
    formula=r"(1 - p)\, y = m \odot x",
    if_fails="kept elements are not divided by 1 - p, or by p; or the mask returned is another than the one applied",
)
@given(x=rows(most=129), p=ps, seed=seeds)
def kept_are_divided_dropped_are_0(impl, x, p, seed):
    """An element is divided by the probability of keeping it where the mask is True, and is 0 elsewhere."""
    got = impl.dropout(x, p, seed)
    agree(got.y * (1 - p), got.mask * x)


@claim(
    rows="001-188 002-036",
    formula=r"y_n = 0 \quad \text{where } m_n = 0",
    if_fails="the mask is inverted, or dropped elements keep a rest",
)
@given(x=rows(most=129, moderate=True), p=ps, seed=seeds)
def dropped_are_exactly_0(impl, x, p, seed):
    """A number that is dropped is 0, to the bit."""
    got = impl.dropout(x, p, seed)
    exactly(got.y[tensor(got.mask) == 0], 0)


@claim(
    rows="001-189 002-036",
    formula=r"p = 0: \quad y = x,\ m = 1",
    if_fails="p and 1 - p are exchanged, or something is dropped with probability 0",
)
@given(x=st.sampled_from([(1, 1), (3, 5), (2, 17), (1, 129), (2, 2, 33)]).flatmap(arrays), seed=seeds)
def nothing_is_dropped_at_0(impl, x, seed):
    """With p = 0 every element stays as it is, to the bit."""
    x = torch.from_numpy(x).to(torch.bfloat16).to(torch.float16).double()       # numbers that every dtype has
    got = impl.dropout(x, 0.0, seed)
    exactly(got.y, x)
    exactly(got.mask, 1)


@claim(
    rows="001-188 002-036",
    formula=r"p = 1: \quad y = 0,\ m = 0",
    if_fails="1 / (1 - p) is infinite, and 0 times that is NaN; or a random number just below 1 is rounded to 1",
)
@given(x=rows(most=129, moderate=True), seed=seeds)
def everything_is_dropped_at_1(impl, x, seed):
    """With p = 1 every element is dropped: zeros, not NaN."""
    got = impl.dropout(x, 1.0, seed)
    exactly(got.y, 0)
    exactly(got.mask, 0)


@claim(
    rows="001-188",
    formula=r"m_n = 1,\ x_n = \mathrm{NaN} \implies y_n = \mathrm{NaN}",
    if_fails="NaN is compared, clamped or replaced on the way",
)
@given(x=special_rows(most=33), p=st.sampled_from([0.0, 0.25, 0.5]), seed=seeds)
def a_kept_nan_stays(impl, x, p, seed):
    """A NaN that is kept stays NaN; one that is dropped is 0 or NaN, by how zero is made."""
    got = impl.dropout(x, p, seed)
    here = (tensor(got.mask) != 0) & x.isnan()
    exactly(got.y[here], float("nan"))


@claim(rows="001-188", formula=r"p \notin [0, 1] \implies \text{an error}",
       if_fails="a probability of keeping is taken for one of dropping, or a percentage is taken as it is")
@given(p=st.sampled_from([-0.1, 1.5, 2.0, -1.0, 10.0]), seed=seeds)
def other_probabilities_are_refused(impl, p, seed):
    """A p below 0 or above 1 is refused."""
    rejects(lambda: impl.dropout(ones((2, 3)), p, seed), match="probab|0 and 1|in \\[0, 1\\]")


@claim(rows="001-189 002-036", formula=r"\text{evaluation: } y = x")
@given(x=special_rows(most=33), p=ps)
def evaluation_is_the_identity(x, p, dtype):
    """In evaluation mode dropout does nothing, to the bit, whatever p is and whatever x holds."""
    x = x.to(getattr(torch, dtype))
    exactly(torch.nn.Dropout(p).eval()(x), x)


# -------------------------------------------------------------------------------------------- what the mask depends on

@claim(
    rows="001-188 002-036",
    formula=r"s = s' \implies m = m',\ y = y'",
    if_fails="the generator goes on from where the last call left it, so that a backward pass draws another mask",
)
@given(x=rows(most=129), p=ps, seed=seeds)
def the_seed_decides(impl, x, p, seed):
    """The same seed gives the same mask and the same values, to the bit: a backward pass can draw them again."""
    first, second = impl.dropout(x, p, seed), impl.dropout(x, p, seed)
    exactly(first.mask, second.mask)
    exactly(first.y, second.y)


@claim(
    rows="001-188",
    formula=r"m(x) = m(x')",
    if_fails="what is 0 already, or is no number, is counted as dropped",
)
@given(x=special_rows(most=129), p=ps, seed=seeds, other=st.sampled_from([0.0, 1.0, -1.0, 1e4, float("nan")]))
def the_mask_does_not_see_the_values(impl, x, p, seed, other):
    """Which elements are kept does not depend on what they hold."""
    exactly(impl.dropout(x, p, seed).mask, impl.dropout(torch.full_like(x, other), p, seed).mask)


@statistical(
    rows="001-188 002-036",
    formula=r"\textstyle\sum_n m_n \sim \operatorname{B}(N, 1 - p)",
    if_fails="elements are kept with probability p, or the mask repeats itself",
    corrects="spec/dropout_means.py::use_is_scaled_by_the_rate_of_dropping",
)
@given(shape=shapes, p=some)
def kept_are_binomial(impl, shape, p):
    """Of N elements a binomial number is kept, with probability 1 - p each."""
    mask = kept(impl.dropout(ones(shape), p, seed_from("rate", shape, p) % 2**32))
    plausible(binomial_p_value(int(mask.sum()), mask.numel(), 1 - p), what=f"{int(mask.sum())} of {mask.numel()} kept")


@statistical(
    rows="001-188 002-036",
    formula=r"(1 - p) \textstyle\sum_n y_n \sim \operatorname{B}(N, 1 - p) \quad (x = 1)",
    if_fails="kept elements are not divided by 1 - p",
    corrects="spec/dropout_means.py::variance_is_kept",
)
@given(shape=shapes, p=st.sampled_from([0.5, 0.75, 0.875]))
def the_mean_is_kept(impl, shape, p):
    """The sum over ones, after dropout, is the number of those kept over 1 - p: in the mean, the number of them all."""
    y = tensor(impl.dropout(ones(shape), p, seed_from("mean", shape, p) % 2**32).y)
    count = (1 - p) * float(y.sum())                # 1 / (1 - p) is a power of two here: no rounding
    assert count == round(count), f"{count:g} elements kept"
    plausible(binomial_p_value(round(count), y.numel(), 1 - p), what=f"a mean of {float(y.mean()):.4g} after dropout")


@statistical(
    rows="002-036 001-188",
    formula=r"m_n,\ m_{n + d}\ \text{independent}",
    if_fails="one mask serves every row, head or block, or the words of the generator are used twice",
)
@given(shape=st.sampled_from([(64, 64), (2, 2, 32, 32), (8192,), (16, 512)]),
       lag=st.sampled_from([1, 2, 4, 8, 32, 64, 128, 512, 1024, 2048]), p=some)
def elements_are_independent(impl, shape, lag, p):
    """Whether an element is kept says nothing about another: its neighbour, the row below, the next head or block."""
    pairs = kept(impl.dropout(ones(shape), p, seed_from("lag", shape, lag, p) % 2**32)).view(-1, 2, lag)
    equal_ones_plausible(pairs[:, 0], pairs[:, 1], p, f"elements {lag} apart")


@statistical(
    rows="001-188 002-036",
    formula=r"m(s),\ m(s + \delta)\ \text{independent}",
    if_fails="the seed is ignored, or enters as a shift of the element's index",
)
@given(delta=st.sampled_from([1, 2, 3, 64, 1000, 2**16, 2**31]), p=some, by=st.sampled_from([0, 1, 2, 3, 4, 64]))
def seeds_are_independent(impl, delta, p, by):
    """Masks of different seeds say nothing about each other, at the same place or a few places on."""
    seed = seed_from("seeds", delta, p, by) % 2**31
    first, second = (kept(impl.dropout(ones(4096 + by), p, s)) for s in (seed, seed + delta))
    equal_ones_plausible(first[by:], second[:4096], p, f"seeds {delta} apart")


DRAWS = 60


@statistical(
    rows="001-188 002-036",
    formula=r"P(\exists n\ \forall s: m_n(s) = 1) \le N (1 - p)^S, \qquad p = \tfrac12",
    if_fails="a tail is not masked, or some elements share a word that is never drawn",
)
@given(shape=st.sampled_from([(1,), (3,), (7, 9), (65,), (2, 33)]))
def every_element_is_dropped_and_kept(impl, shape):
    """No element is always kept or always dropped: each is both, in 60 draws."""
    x, draws = ones(shape), [seed_from("each", shape, s) % 2**32 for s in range(DRAWS)]
    masks = torch.stack([kept(impl.dropout(x, 0.5, seed)) for seed in draws])
    never = int((masks.all(0) | ~masks.any(0)).sum())
    bound = masks.shape[1] * 2.0 ** (1 - DRAWS)                     # that some element is the same in every draw
    plausible(bound if never else 1.0, what=f"{never} elements that never change")


# ------------------------------------------------------------------------------------------------ attention and dropout

@claim(
    rows="002-036 001-187 002-035",
    formula=r"(1 - p) \textstyle\sum_j y_j = \sum_j m_j w_j, \qquad m_j = 0 \implies y_j = 0",
    if_fails="dropout is applied before softmax, or the weights are normalised again",
    corrects="dropped_scores_hide_keys weights_after_dropout_sum_to_1",
)
@given(x=rows(most=33, moderate=True), p=ps, seed=seeds)
def dropped_weights_hide_keys(impl, x, p, seed):
    """Dropout of weights hides keys: theirs are 0, and the rest, scaled but not normalised again, sums to 1 in the
    mean alone."""
    w = impl.softmax(x)
    got = impl.dropout(w, p, seed)
    exactly(got.y[tensor(got.mask) == 0], 0)
    agree(got.y.sum(-1) * (1 - p), (got.mask * tensor(w)).sum(-1))


@refuted(rows="001-187", formula=r"w = \operatorname{softmax}\bigl(\operatorname{dropout}(x)\bigr), \quad "
                                 r"m_j = 0 \implies w_j = 0")
@example(x=torch.zeros(1, 8, dtype=torch.float64), p=0.5, seed=1)
@given(x=rows(most=33, moderate=True), p=some, seed=seeds)
def dropped_scores_hide_keys(impl, x, p, seed):
    """Dropout is applied to the scores: the keys that it drops have no weight."""
    got = impl.dropout(x, p, seed)
    agree(impl.softmax(got.y) * (1 - tensor(got.mask)), 0)


@refuted(rows="002-035 001-187 002-036", formula=r"\textstyle\sum_j y_j = 1")
@example(x=torch.zeros(1, 1, dtype=torch.float64), p=0.5, seed=1)
@given(x=rows(most=33, moderate=True), p=some, seed=seeds)
def weights_after_dropout_sum_to_1(impl, x, p, seed):
    """The weights of a row sum to 1 after dropout as before it."""
    agree(impl.dropout(impl.softmax(x), p, seed).y.sum(-1), 1)
