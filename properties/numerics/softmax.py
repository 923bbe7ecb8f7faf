"""Softmax and log-sum-exp of scores that carry errors: the weights, their budgets, and those of lse.

Scores are float64 arrays (..., n); -inf marks a hidden key. A score that is computed with error at most E and then goes
through exp gives a weight `p^_j = p_j exp(rho_j)` up to a factor common to the row, `|rho_j| <= eps_j`. The common
factor (a wrong maximum, a wrong shift) cancels between numerator and denominator, and that is why the budgets are
tight. Online softmax has the same formula: its correction factors exp(m_old - m_new) have arguments of one sign that
telescope to S_j - M, so T merges cost T exponentials and T more roundings in the sums. Compare Blanchard, Higham &
Higham, "Accurately computing the log-sum-exp and softmax functions" (2021), for the textbook algorithm.
"""

from typing import NamedTuple

import numpy as np

from .rounding import gamma

LARGEST = np.finfo(np.float64).max
LARGEST_EPS = 60.0  # beyond this exp(eps) is not formed: which key is the largest is what is left to know


class Weights(NamedTuple):
    """Row softmax of scores with errors."""

    P: np.ndarray  # exact weights
    M: np.ndarray  # row maxima, 0 for an empty row; (..., 1)
    D: np.ndarray  # sum of exp(S - M), 1 for an empty row; (..., 1)
    gap: np.ndarray  # M - S; 0 at hidden keys
    eps: np.ndarray  # bound of |log(p^_j / p_j)| up to a factor common to the row; 0 at hidden keys
    merges: int  # blocks that an online algorithm may have merged
    splits: int  # how often partial results may have been merged with exp(lse_i - lse)
    hidden: np.ndarray | None  # True at keys of score -inf, None where there is none
    empty: np.ndarray | None  # True at rows without a visible key; (..., 1), None where there is none


def weights_of(S, E, contract, *, splits=None):
    """The exact weights of scores S and what the roundings of exp and errors E (an array or 0) of S do to them.

    `splits` counts the parts whose results are merged afterwards; as many as there are blocks where it is not given.
    """
    c = contract
    merges = c.merges(S.shape[-1]) + (splits or 0)
    splits = splits or merges
    M = S.max(-1, keepdims=True, initial=-np.inf)
    hidden = S == -np.inf
    hidden = hidden if hidden.any() else None
    empty = None
    if hidden is not None or S.shape[-1] == 0:
        empty = M == -np.inf
        empty = empty if empty.any() else None
        if empty is not None:
            M = np.where(empty, 0.0, M)
    gap = M - S
    P = np.exp(-gap)
    D = P.sum(-1, keepdims=True)
    if empty is not None:
        D = np.where(empty, 1.0, D)
    P /= D
    abs_S = np.abs(S)
    if hidden is not None:
        gap[hidden] = 0.0
        abs_S[hidden] = 0.0
    eps = E + c.u * (c.exp_c * (merges + 1) + c.exp_x * gap + c.exp_m * (abs_S + np.abs(M)))
    if c.lse_merge:
        eps += c.u * splits * (3.0 * gap + 2.0 * (abs_S + np.abs(M) + np.log(D)))
    if hidden is not None:
        eps[hidden] = 0.0
    return Weights(P, M, D, gap, eps, merges, splits, hidden, empty)


def probability_budget(w, contract):
    """The bound of `|p^_j - p_j|` for normalised weights in the accumulator.

    p_j moves by its own factor exp(+-eps_j) and the denominator by those of all keys, its own among them:
    `p_j (exp(eps_j) (1 + t) / ((sum_k p_k exp(-eps_k) - p_j exp(-eps_j) + p_j exp(eps_j)) (1 - t_D)) - 1)` above, and
    the mirror image below; t is the error of the division and t_D that of the sum.
    """
    c = contract
    n = w.P.shape[-1]
    t, t_sum = gamma(c.div_c, c.u), gamma(n + w.merges, c.u)
    up = np.exp(np.minimum(w.eps, LARGEST_EPS))
    raised, lowered = w.P * up, w.P / up
    total, own = raised.sum(-1, keepdims=True), raised - lowered
    # with a factor of e^40 the difference would forget all other keys; only one key can be most of the sum
    most = raised > 0.5 * total
    high = np.where(most, np.where(most, 0.0, raised).sum(-1, keepdims=True) + lowered, total - own)
    low = lowered.sum(-1, keepdims=True) + own
    if w.empty is not None:
        high, low = high + w.empty, low + w.empty
    if t_sum < 0.5:
        above = raised * ((1.0 + t) / (1.0 - t_sum)) / low - w.P
        below = w.P - lowered * ((1.0 - t) / (1.0 + t_sum)) / high
        budget = np.maximum(above, below) + (c.flush + c.eta) * (1.0 + n * w.P)
        wild = w.eps.max(-1, keepdims=True, initial=0.0) > LARGEST_EPS
        if wild.any():
            budget = np.where(wild, _wild_budget(w) + (t + t_sum + n * (c.flush + c.eta)), budget)
    else:
        budget = np.ones_like(w.P)
    if w.hidden is not None:
        budget[w.hidden] = 0.0
    return budget


def _wild_budget(w):
    """The bound of `|p^_j - p_j|` from scores alone, for errors of which exp is too large to be formed.

    Some key k has a computed score of at least max_k (S_k - eps_k). So p^_j is at most
    `r_j = min(1, exp(S_j + eps_j - max_k (S_k - eps_k)))`, and at least 1 minus the r of the other keys.
    """
    highest, lowest = w.eps - w.gap, -w.eps - w.gap
    if w.hidden is not None:
        highest, lowest = (np.where(w.hidden, -np.inf, x) for x in (highest, lowest))
    reach = np.exp(np.minimum(highest - np.maximum(lowest.max(-1, keepdims=True), -LARGEST), 0.0))
    others = np.maximum(reach.sum(-1, keepdims=True) - reach, 0.0)
    return np.maximum(reach - w.P, np.minimum(w.P, others))


def stored(value, budget, contract):
    """The budget after the result has been stored in the output's format; 0 stays 0 where value and budget are 0."""
    u = contract.roundoff(contract.out)
    return np.where((value == 0.0) & (budget == 0.0), 0.0, budget + u * (np.abs(value) + budget) + contract.out_floor)


def softmax(S, contract, E=0.0):
    """(P, budget, Weights): weights of scores S stored in the output's format; a hidden key has weight exactly 0."""
    w = weights_of(S, E, contract)
    budget = np.minimum(
        stored(w.P, probability_budget(w, contract), contract), 1.0 + 2.0 * contract.roundoff(contract.out)
    )
    return w.P, budget, w


def lse_of(w, contract):
    """log sum exp of the scores behind w and its budget, both (..., 1); -inf and 0 for an empty row.

    The sum moves by `sum_j p_j exp(+-eps_j)`, never more than by exp(max eps); the rest are the roundings of the sum,
    of the logarithm and of M + log D.
    """
    c = contract
    n = w.P.shape[-1]
    log_D = np.log(w.D)
    value = w.M + log_D
    up = np.exp(np.minimum(w.eps, LARGEST_EPS))
    raised, lowered = (w.P * up).sum(-1, keepdims=True), (w.P / up).sum(-1, keepdims=True)
    if w.empty is not None:
        raised, lowered = raised + w.empty, lowered + w.empty
    budget = np.log(np.maximum(raised, 1.0 / lowered))
    largest = w.eps.max(-1, keepdims=True, initial=0.0)
    budget = np.where(largest > LARGEST_EPS, largest, budget)
    rounds = 1 + (w.splits if c.lse_merge else 0)
    abs_M = np.abs(w.M)
    budget = budget + gamma(n + w.merges, c.u) * 1.0001 + n * c.flush
    budget = budget + rounds * c.u * (4.0 + 4.0 * log_D + 4.0 * abs_M + 2.0 * np.abs(value))
    if w.empty is not None:
        value = np.where(w.empty, -np.inf, value)
        budget = np.where(w.empty, 0.0, budget)
    return value, budget
