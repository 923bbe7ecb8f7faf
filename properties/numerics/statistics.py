"""Statistical claims with proved error probabilities: exact designs first, exact p-values where chance is the subject.

A p-value here obeys P(p <= alpha) <= alpha under the claim, for every alpha and every sample size; none rests on a
normal approximation. `FALSE_ALARM` is the alpha of one check. Seeds are hashed from the parameters of an example, so
that a search that varies the example cannot look for an unlucky seed.
"""

import hashlib
import math

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-13


def hadamard(n):
    """Sylvester's matrix of order 2^ceil(log2 n): entries +-1, orthogonal columns, first column constant."""
    H = np.ones((1, 1))
    while H.shape[0] < n:
        H = np.block([[H, H], [H, -H]])
    return H


def second_moment_design(d):
    """(N, d) vectors q of +-1 with mean exactly 0 and mean of q q^T exactly I.

    (q.k)^2 is quadratic in q, so its mean over the design is |k|^2 for every k, and the mean of q.k is 0: claims
    about the variance of scores become equalities of integers. The rows of [H; -H], H the first d columns of a
    Hadamard matrix, are an orthogonal array of strength 2 and their negatives (Hedayat, Sloane & Stufken, "Orthogonal
    Arrays", section 7).
    """
    H = hadamard(d)[:, :d]
    return np.concatenate([H, -H])


def score_variance(cov_q, cov_k, mean_q=0.0, mean_k=0.0):
    """Var(q.k) for independent vectors q and k: tr(S_q S_k) + m_q' S_k m_q + m_k' S_q m_k.

    From E (q.k)^2 = tr(E q q' E k k'). It is d where means are 0, variances 1, and the components of q *or* of k
    uncorrelated; nothing else is needed.
    """
    cov_q, cov_k = np.asarray(cov_q, float), np.asarray(cov_k, float)
    mean_q, mean_k = (np.broadcast_to(np.asarray(m, float), cov_q.shape[:1]) for m in (mean_q, mean_k))
    return float(np.trace(cov_q @ cov_k) + mean_q @ cov_k @ mean_q + mean_k @ cov_q @ mean_k)


def chi2_p_value(squares):
    """Two-sided p-value that `squares` are squares of independent N(0, 1): their sum has the chi-squared law, exactly.

    For scores: where k has independent N(0, 1) entries, (q.k / |q|)^2 is such a square whatever q is, one per k.
    """
    squares = np.asarray(squares, float)
    law = stats.chi2(squares.size)
    return _two_sided(law.cdf(squares.sum()), law.sf(squares.sum()))


def binomial_p_value(successes, n, probability):
    """Two-sided exact p-value of a number of successes among n independent trials (Clopper & Pearson 1934)."""
    law = stats.binom(n, probability)
    return _two_sided(law.cdf(successes), law.sf(successes - 1))


def _two_sided(lower, upper):
    return float(min(1.0, 2.0 * min(lower, upper)))


def dkw_p_value(sample, cdf, atom=0.0):
    """P-value that `sample` is independent with the continuous distribution function `cdf`.

    P(sup |F_n - F| > e) <= 2 exp(-2 n e^2) for every n (Dvoretzky, Kiefer & Wolfowitz 1956 with the constant of Massart
    1990). `atom` is the largest jump that rounding to the sample's dtype gives the true law.
    """
    x = np.sort(np.asarray(sample, float).ravel())
    n, F = x.size, cdf(x)
    distance = max((np.arange(1, n + 1) / n - F).max(), (F - np.arange(n) / n).max())
    return float(min(1.0, 2.0 * math.exp(-2.0 * n * max(0.0, distance - atom) ** 2)))


def uniform_maximum_p_value(sample, a):
    """P-value that `sample` is independent and uniform on (-a, a): P(max |x| <= m a) = m^n; 0 outside the support.

    Sees a scale that is too small by 5 / n, where a test of the variance sees 5 / sqrt(n).
    """
    x = np.abs(np.asarray(sample, float))
    largest = x.max() / a
    return 0.0 if largest > 1.0 else float(largest**x.size)


def seed_from(*parameters):
    """A seed in [0, 2^63) that depends on the values of `parameters` (numbers, strings, None, tuples of them) alone."""
    text = repr([_plain(p) for p in parameters]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _plain(x):
    if isinstance(x, (tuple, list)):
        return [_plain(item) for item in x]
    return x.item() if hasattr(x, "item") else x
