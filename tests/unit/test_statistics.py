"""Designs are exact, p-values are valid and see what they should, seeds depend on parameters alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from properties.numerics.statistics import (FALSE_ALARM, binomial_p_value, chi2_p_value, dkw_p_value, hadamard,
                                            score_variance, second_moment_design, seed_from, uniform_maximum_p_value)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 16, 64, 80, 100, 128])
def test_the_design_has_mean_zero_and_covariance_one_exactly(d):
    q = second_moment_design(d)
    assert not q.sum(0).any()
    assert np.array_equal(q.T @ q, len(q) * np.eye(d))
    k = np.arange(1.0, d + 1)
    assert ((q @ k) ** 2).sum() == len(q) * (k @ k)


def test_hadamard_columns_are_orthogonal_signs():
    H = hadamard(12)
    assert H.shape == (16, 16) and np.array_equal(np.abs(H), np.ones((16, 16)))
    assert np.array_equal(H.T @ H, 16 * np.eye(16))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=50, deadline=None, database=None, derandomize=True)
def test_score_variance_is_the_variance_over_a_finite_law(seed, d):
    """Exact: q and k uniform on a few integer points each, all pairs enumerated."""
    rng = np.random.default_rng(seed)
    q, k = (rng.integers(-3, 4, (n, d)).astype(float) for n in (4, 8))
    scores = q @ k.T
    moments = [(np.cov(x.T, bias=True).reshape(d, d), x.mean(0)) for x in (q, k)]
    (cov_q, mean_q), (cov_k, mean_k) = moments
    assert score_variance(cov_q, cov_k, mean_q, mean_k) == pytest.approx(scores.var(), rel=1e-12, abs=1e-12)
    assert score_variance(np.eye(d), np.eye(d)) == d


def p_values(rng, wrong):
    """One p-value of each test under its claim, or under a slightly wrong one."""
    scale = 1.2 if wrong else 1.0
    return {"chi2": chi2_p_value((scale * rng.standard_normal(400)) ** 2),
            "binomial": binomial_p_value(rng.binomial(3000, 0.8 if wrong else 0.9), 3000, 0.9),
            "dkw": dkw_p_value(scale**3 * rng.standard_normal(1500), stats.norm.cdf),
            "uniform maximum": uniform_maximum_p_value(rng.uniform(-1, 1, 400) / scale, 1.0)}


def test_p_values_are_valid():
    """The number of rejections at alpha is at most what a binomial law allows, and p-values lie in [0, 1]."""
    rng, n, alpha = np.random.default_rng(0), 600, 0.05
    drawn = [p_values(rng, wrong=False) for _ in range(n)]
    for name in drawn[0]:
        p = np.array([row[name] for row in drawn])
        assert ((0 <= p) & (p <= 1)).all()
        assert stats.binom.sf((p <= alpha).sum() - 1, n, alpha) > 1e-9, name


def test_p_values_see_a_wrong_law():
    rng = np.random.default_rng(0)
    drawn = [p_values(rng, wrong=True) for _ in range(20)]
    assert all(np.median([row[name] for row in drawn]) < limit for name, limit in
               (("chi2", 1e-6), ("binomial", FALSE_ALARM), ("dkw", 1e-6), ("uniform maximum", FALSE_ALARM)))


def test_p_values_at_the_edges():
    assert binomial_p_value(0, 10, 0.5) == pytest.approx(2 / 1024)
    assert binomial_p_value(5, 10, 0.5) == 1 and binomial_p_value(10, 10, 1.0) == 1
    assert uniform_maximum_p_value([0.5, -1.5], 1.0) == 0
    assert uniform_maximum_p_value([0.5, -0.25], 1.0) == 0.25
    assert dkw_p_value([0.5], lambda x: x, atom=0.5) == 1


def test_dropout_of_torch_keeps_as_often_as_it_says():
    generator_seed = seed_from("dropout", 0.25)
    torch.manual_seed(generator_seed)
    kept = int((torch.nn.functional.dropout(torch.ones(100_000), 0.25) != 0).sum())
    assert binomial_p_value(kept, 100_000, 0.75) > FALSE_ALARM
    assert binomial_p_value(kept, 100_000, 0.74) < 1e-9


def test_seeds_depend_on_values_alone():
    assert seed_from(3, "a", (1.5, None)) == seed_from(np.int64(3), "a", [np.float64(1.5), None])
    seeds = {seed_from(i, j) for i in range(40) for j in range(40)}
    assert len(seeds) == 1600 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_from(1, 23) != seed_from(12, 3) and torch.manual_seed(seed_from(0)) is not None
