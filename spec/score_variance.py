"""Variance of scores: why the scale is one over the square root of the head dim, and under which conditions.

A score is read off where an implementation shows it: the log-sum-exp of a query that sees one key is their score.
Expectations are averages over exact designs, small sets of vectors of signs whose moments are those of independent
entries: mean 0 and E[x x^T] = I, with no sampling error.
"""

from itertools import product
from math import erfc

import torch
from sympy import Matrix, Rational, symbols

from properties import (Inputs, agree, at_most, attention_inputs, claim, example, given, integer_rows, plausible,
                        refuted, second_moment_design, seed_from, st, statistical, tensor)
from properties.numerics.statistics import binomial_p_value, chi2_p_value

DIMS = st.sampled_from((1, 2, 3, 4, 5, 8, 16))
SQUARES = st.sampled_from((4, 1, 16))           # whose square roots are exact
OFFSETS = st.sampled_from((0.0, 0.5, -1.0, 2.0))
OFTEN_ZERO = st.sampled_from((0.0, 0.0, 0.0, 0.0, 1.0, -2.0))


def design(d):
    """(n, d): vectors of signs with mean exactly 0 and second moments exactly I."""
    return torch.as_tensor(second_moment_design(d), dtype=torch.float64)


def all_signs(d):
    """(2^d, d): every vector of signs, so that all moments are those of independent signs."""
    return torch.tensor(list(product((1.0, -1.0), repeat=d)), dtype=torch.float64)


def pairs(queries, keys):
    """Inputs of attention whose lse is (n keys, 1, n queries): the score of every query with every key."""
    k = keys[:, None, None, :]
    return queries.expand(len(keys), 1, *queries.shape), k, k[..., :1] * 0.0


def one_to_one(queries, keys):
    """Inputs of attention whose lse is (n, 1, 1): the scores of the n pairs (query i, key i)."""
    k = keys[:, None, None, :]
    return queries[:, None, None, :], k, k[..., :1] * 0.0


def mean(scores):
    return scores.reshape(-1).mean(0)


# ----------------------------------------------------------------------------------------------------- moments of q . k

@claim(
    rows="001-144 004-009",
    formula=r"\operatorname{E}[q q^\top] = I \implies \operatorname{E}_q[(q \cdot k)^2] = |k|^2",
    if_fails="a component of the head dim is left out or counted twice, or the scale given is not the one applied",
)
@given(k=integer_rows(n_rows=1, most=16))
def uncorrelated_queries_are_enough(impl, k):
    """Over queries with uncorrelated components of variance 1 the mean square score is |k|^2, whatever the key."""
    score = impl.attention(*pairs(design(k.shape[1]), k), scale=1.0).lse
    agree(mean(score * score), (k * k).sum())
    agree(mean(score), 0.0)


@uncorrelated_queries_are_enough.proof(tie=lambda k: {f"k{k.shape[1]}_{i}": x for i, x in enumerate(k[0].tolist())})
def _():
    """For every key of head dim 1, 2, 3, 4, 5 and 8."""
    return [_mean_square_of_design(d) for d in (1, 2, 3, 4, 5, 8)]


def _mean_square_of_design(d):
    rows, k = design(d).int().tolist(), symbols([f"k{d}_{i}" for i in range(d)], real=True)
    squares = [sum(sign * x for sign, x in zip(row, k, strict=True))**2 for row in rows]
    return Rational(1, len(rows)) * sum(squares), sum(x**2 for x in k)


@claim(
    rows="001-144 004-009",
    formula=r"\operatorname{Var}(q \cdot k) = d_k",
    if_fails="the scores are scaled though the scale is 1, or a component of the head dim is left out",
    corrects="dot_product_grows_with_head_dim dependent_components_give_variance_d",
)
@given(d=DIMS)
def variance_of_a_dot_product_is_the_head_dim(impl, d):
    """With components of mean 0 and variance 1 that are uncorrelated, q . k has mean 0 and variance d_k."""
    score = impl.attention(*pairs(design(d), design(d)), scale=1.0).lse
    agree(mean(score), 0.0)
    agree(mean(score * score), float(d))


def _moments(d, mu=0.0, nu=0.0):
    numbers = {f"{name}{d}_{i}": x for name, x in (("m", mu), ("n", nu)) for i in range(d)}
    return numbers | {f"{name}{d}_{i}{j}": float(i == j) for name in "st" for i in range(d) for j in range(d)}


@variance_of_a_dot_product_is_the_head_dim.proof(tie=lambda d: _moments(d) | {"relation": 1})
def _():
    """E[(q.k)^2] = tr(Sq Sk) + mq' Sk mq + mk' Sq mk + (mq' mk)^2 in covariances and means, for head dims 1, 2, 3."""
    return [_second_moment(d) for d in (1, 2, 3)]


def _second_moment(d):
    """E[(q.k)^2] = sum_ij E[q_i q_j] E[k_i k_j] for independent q and k, and what it is in covariances and means."""
    def symmetric(name):
        return Matrix(d, d, lambda i, j: symbols(f"{name}{d}_{min(i, j)}{max(i, j)}", real=True))

    mq, mk = (Matrix([symbols(f"{name}{d}_{i}", real=True) for i in range(d)]) for name in "mn")
    sq, sk = symmetric("s"), symmetric("t")
    second_q, second_k = sq + mq * mq.T, sk + mk * mk.T
    whole = sum(second_q[i, j] * second_k[i, j] for i in range(d) for j in range(d))
    return whole, (sq * sk).trace() + (mq.T * sk * mq)[0] + (mk.T * sq * mk)[0] + (mq.T * mk)[0] ** 2


def zero_means(mu, nu):
    """the components of queries and keys have mean 0"""
    return mu == 0 and nu == 0


@claim(
    rows="001-144 004-009 002-010",
    formula=r"\operatorname{E}[q \cdot k]^2 + \operatorname{Var}(q \cdot k) = d_k",
    if_fails="a component of the head dim is left out",
    needs=zero_means,
)
@given(d=DIMS, mu=OFTEN_ZERO, nu=OFTEN_ZERO)
def mean_square_is_the_head_dim(impl, d, mu, nu):
    """Components of variance 1 give scores of mean square d_k."""
    score = impl.attention(*pairs(design(d) + mu, design(d) + nu), scale=1.0).lse
    agree(mean(score * score), float(d))


@claim(
    rows="004-009",
    formula=r"\operatorname{E}[q \cdot k] = d\,\mu\nu, \quad "
            r"\operatorname{E}[(q \cdot k)^2] = d\,(1 + \mu^2 + \nu^2) + (d\,\mu\nu)^2",
    if_fails="a component of the head dim is left out, or queries or keys are centred",
)
@given(d=DIMS, mu=OFFSETS, nu=OFFSETS)
def means_add_to_the_variance(impl, d, mu, nu):
    """With means mu and nu the score has mean d mu nu, and variance d (1 + mu^2 + nu^2) instead of d."""
    score = impl.attention(*pairs(design(d) + mu, design(d) + nu), scale=1.0).lse
    agree(mean(score), d * mu * nu)
    agree(mean(score * score), d * (1 + mu**2 + nu**2) + (d * mu * nu) ** 2)


@means_add_to_the_variance.proof(tie=lambda d, mu, nu: _moments(d, mu, nu) | {"relation": 1})
def _():
    """For head dims 1, 2 and 3, any covariances and means."""
    return [_second_moment(d) for d in (1, 2, 3)]


def independent(pairing):
    """query and key are independent: every query meets every key"""
    return pairing is pairs


@claim(
    rows="001-144 004-009",
    formula=r"\operatorname{E}[q \cdot k] = 0",
    if_fails="a sign is lost, or queries and keys are centred",
    needs=independent,
)
@given(d=DIMS, pairing=st.sampled_from((pairs, one_to_one)))
def mean_score_is_zero(impl, d, pairing):
    """The mean of q . k is 0; where q = k it is d_k."""
    agree(mean(impl.attention(*pairing(design(d), design(d)), scale=1.0).lse), 0.0)


@refuted(rows="001-144 004-009", formula=r"\operatorname{E} q_i = \operatorname{E} k_i = 0,\ \operatorname{E} q_i^2 = "
                                         r"\operatorname{E} k_i^2 = 1 \implies \operatorname{Var}(q \cdot k) = d_k")
@example(d=2)
@given(d=DIMS)
def dependent_components_give_variance_d(impl, d):
    """Components of mean 0 and variance 1 give Var(q . k) = d_k, even where they depend on one another."""
    repeated = all_signs(1).expand(2, d)
    score = impl.attention(*pairs(repeated, repeated), scale=1.0).lse
    agree(mean(score * score), float(d))


@refuted(rows="002-011", formula=r"d' > d \implies q_{1..d'} \cdot k_{1..d'} \ge q_{1..d} \cdot k_{1..d}")
@example(q=-torch.ones(1, 2).double())
@given(q=integer_rows(n_rows=1, least=2, most=16))
def dot_product_grows_with_head_dim(impl, q):
    """The dot product grows as components are added."""
    ones = torch.ones_like(q)
    fewer, more = (impl.attention(*pairs(q[:, :d], ones[:, :d]), scale=1.0).lse for d in (q.shape[1] - 1, q.shape[1]))
    at_most(fewer, more)


# ------------------------------------------------------------------------------------------- what the scale makes of it

@claim(
    rows="001-145 002-010 000-003",
    formula=r"\operatorname{Var}\big(q \cdot k / \sqrt{d_k}\big) = 1",
    if_fails="the default scale is not D ** -0.5 of the head dim: missing, 1 / D, from the model's width or a padded D",
    corrects="dividing_by_the_head_dim_gives_unit_variance scaled_variance_grows_with_head_dim "
             "scaled_scores_are_within_three_sigma",
)
@given(d=DIMS)
def the_default_scale_gives_unit_variance(impl, d):
    """Divided by the root of d_k, scores have mean 0 and variance 1 for every head dim."""
    score = impl.attention(*pairs(design(d), design(d))).lse
    agree(mean(score), 0.0)
    agree(mean(score * score), 1.0)


@claim(
    rows="000-007 001-145",
    formula=r"\operatorname{Var}(c\; q \cdot k) = c^2 d_k, \quad c = 1 / d_k:\ 1 / d_k",
    if_fails="the scale that is given is not the one that is applied",
    corrects="dividing_by_the_head_dim_gives_unit_variance dividing_by_the_head_dim_makes_weights_uniform",
)
@given(d=DIMS, scale=st.sampled_from((1.0, 0.5, -0.25, 0.0, None)))
def variance_goes_with_the_square_of_the_scale(impl, d, scale):
    """A scale c gives variance c^2 d_k: 1 / d_k with c = 1 / d_k, where weights flatten as d_k grows."""
    scale = 1.0 / d if scale is None else scale
    score = impl.attention(*pairs(design(d), design(d)), scale=scale).lse
    agree(mean(score * score), scale**2 * d)


@refuted(rows="000-007 000-003", formula=r"\operatorname{Var}(q \cdot k / d_k) = 1")
@example(d=2)
@given(d=DIMS)
def dividing_by_the_head_dim_gives_unit_variance(impl, d):
    """Dividing by d_k normalises the scores as dividing by its root does."""
    score = impl.attention(*pairs(design(d), design(d)), scale=1.0 / d).lse
    agree(mean(score * score), 1.0)


@refuted(rows="000-008", formula=r"\operatorname{Var}\big(q \cdot k / \sqrt{d_k}\big) = d_k")
@example(d=2)
@given(d=DIMS)
def scaled_variance_grows_with_head_dim(impl, d):
    """A large head dim makes the variance of the scaled scores large."""
    score = impl.attention(*pairs(design(d), design(d))).lse
    agree(mean(score * score), float(d))


@refuted(rows="000-007", formula=r"\operatorname{softmax}(q \cdot k / d_k) = \tfrac1n")
@example(x=Inputs(*pairs(torch.ones(1, 1).double(), torch.ones(1, 1).double())).with_(
    k=torch.tensor([[[[0.0], [1.0]]]]).double()))
@given(x=attention_inputs())
def dividing_by_the_head_dim_makes_weights_uniform(impl, x):
    """Scores divided by d_k give uniform weights, whatever queries and keys are."""
    agree(impl.attention_weights(x.q, x.k, scale=1.0 / x.q.shape[3]), 1.0 / x.k.shape[2])


@claim(
    rows="001-051",
    formula=r"\operatorname{Var}(q)\operatorname{Var}(k) = 1 / d_k \implies \operatorname{Var}(q \cdot k) = 1",
    if_fails="a scale is applied though the scale is 1",
    corrects="both_variances_divided_by_the_head_dim",
)
@given(d=SQUARES)
def the_product_of_variances_takes_the_place_of_the_scale(impl, d):
    """Without a scale, variance 1 / d_k of the queries (or the keys) alone gives scores of variance 1."""
    for q, k in ((design(d) / d**0.5, design(d)), (design(d), design(d) / d**0.5)):
        score = impl.attention(*pairs(q, k), scale=1.0).lse
        agree(mean(score * score), 1.0)


@refuted(rows="001-051", formula=r"\operatorname{Var}(q_i) = \operatorname{Var}(k_i) = 1 / d_k \implies "
                                 r"\operatorname{Var}(q \cdot k) = 1")
@example(d=4)
@given(d=SQUARES)
def both_variances_divided_by_the_head_dim(impl, d):
    """Dividing the initial variance of both projections by d_k makes unscaled scores of variance 1."""
    score = impl.attention(*pairs(design(d) / d**0.5, design(d) / d**0.5), scale=1.0).lse
    agree(mean(score * score), 1.0)


# --------------------------------------------------------------------------------------------------- their distribution

@claim(
    rows="004-010 001-047",
    formula=r"\operatorname{E}\big[s^4\big] = 3 - \tfrac2d \ \text{(signs)}, \quad 3 + \tfrac6d \ \text{(normals)}",
    if_fails="a component of the head dim is left out, or the default scale is not D ** -0.5",
    corrects="scaling_makes_scores_normal",
)
@given(d=st.sampled_from((1, 2, 3, 4)))
def fourth_moment_depends_on_the_head_dim(impl, d):
    """Dividing changes the scale, not the shape: the fourth moment tends to 3, that of a normal, only as d_k grows."""
    square = impl.attention(*pairs(all_signs(d), all_signs(d))).lse
    square = square * square
    agree(mean(square * square), 3.0 - 2.0 / d)


@refuted(rows="004-010", formula=r"q \cdot k / \sqrt{d_k} \sim \mathcal N(0, 1) \implies \operatorname{E}[s^4] = 3")
@example(d=1)
@given(d=st.sampled_from((1, 2, 3, 4)))
def scaling_makes_scores_normal(impl, d):
    """After division by their standard deviation the scores are normally distributed: fourth moment 3."""
    square = impl.attention(*pairs(all_signs(d), all_signs(d))).lse
    square = square * square
    agree(mean(square * square), 3.0)


@refuted(rows="001-047", formula=r"|q \cdot k| \le 3 \sqrt{d_k}")
@example(d=16)
@given(d=DIMS)
def scaled_scores_are_within_three_sigma(impl, d):
    """Every score of vectors with components of variance 1 lies within three standard deviations."""
    at_most(impl.attention(*pairs(design(d), design(d))).lse, 3.0)


def normals(n, d, *, seed):
    """(n, d): independent standard normals."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@statistical(
    rows="001-144 001-145 002-010 004-009",
    formula=r"q_i \sim \mathcal N(0, I) \implies \sum_{i=1}^n \frac{(q_i \cdot k)^2}{|k|^2} \sim \chi^2_n",
    if_fails="the default scale is not D ** -0.5, or scores are not those of the key that is seen",
)
@given(d=st.sampled_from((1, 2, 4, 16, 64)))
def scores_of_normal_queries_have_a_chi_squared_sum(impl, d):
    """Scores of independent normal queries with one key, squared and summed, have a chi-squared distribution."""
    queries, key = normals(256, d, seed=seed_from("queries", d)), normals(1, d, seed=seed_from("key", d))
    score = tensor(impl.attention(*pairs(queries, key)).lse)
    plausible(chi2_p_value((score * d**0.5 / key.norm()) ** 2), what="the sum of the squares")


@statistical(
    rows="001-047",
    formula=r"q \sim \mathcal N(0, I) \implies P\big(|q \cdot k| > 3\,|k|\big) = 0.0027",
    if_fails="the default scale is not D ** -0.5",
    corrects="scaled_scores_are_within_three_sigma",
)
@given(d=st.sampled_from((1, 2, 4, 16, 64)))
def three_sigma_leaves_out_three_in_a_thousand(impl, d):
    """Of the scores of normal queries with one key, 0.27 % lie outside three standard deviations."""
    queries, key = normals(512, d, seed=seed_from("queries", d)), normals(1, d, seed=seed_from("key", d))
    score = tensor(impl.attention(*pairs(queries, key)).lse)
    outside = int((score.abs() * d**0.5 > 3 * key.norm()).sum())
    plausible(binomial_p_value(outside, score.numel(), erfc(3 / 2**0.5)), what=f"{outside} scores outside three sigma")
