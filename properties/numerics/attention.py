"""Attention: exact values of the output and of lse, and how far roundings may move them.

Shapes: q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv); query head h reads KV head h // (Hq // Hkv), so
queries are regrouped as rows of their KV head, (B, Hkv, group * Lq, D), and every formula is about rows.
"""

from typing import NamedTuple

import numpy as np

from . import movement
from .rounding import SMALLEST_SUBNORMAL, gamma, is_power_of_four, last_bit, product_factor, significant_digits
from .rounding import sums_exactly, underflow_of_product
from .softmax import lse_of, weights_of

WILD_EPS = 40.0  # scores this uncertain carry no information: only the convex hull of the values is left
CHUNK = 1 << 16  # numbers in flight in the contraction over (rows, keys, columns): what fits in the cache


class Scores(NamedTuple):
    """Scores of every row, with errors."""

    S: np.ndarray  # exact, (..., rows, n); hidden keys are -inf
    E: np.ndarray  # bound of the error before exp
    raw: np.ndarray  # |q| |k|^T, the largest a partial sum can be


def grouped(x, n_kv_heads):
    """(B, Hq, L, D) -> (B, Hkv, group * L, D): the rows that read one KV head."""
    b, h, length, d = x.shape
    return x if h == n_kv_heads else x.reshape(b, n_kv_heads, h // max(n_kv_heads, 1) * length, d)


def grouped_pairs(x, shape, n_kv_heads):
    """A mask or bias that expands to `shape` = (B, Hq, Lq, Lk), regrouped as the rows of q."""
    if x is None or shape[1] == n_kv_heads:
        return x
    return grouped(np.broadcast_to(x, shape), n_kv_heads)


def default_scale(scale, d):
    """D ** -0.5 where no scale is given."""
    return float(scale) if scale is not None else (d**-0.5 if d else 1.0)


def visible(lq, lk, *, causal=False, window=None, mask=None, alignment="bottom-right"):
    """The keys that a query sees, as a bool array that expands to (..., lq, lk); None where it sees all."""
    keep = None if mask is None else np.asarray(mask, dtype=bool)
    if window is not None:
        band = movement.sliding_window_mask(lq, lk, window, alignment)
    elif causal:
        band = movement.causal_mask(lq, lk, alignment)
    else:
        return keep
    return band if keep is None else band & keep


def scores_of(q, k, scale, contract, *, keep=None, bias=None, q_error=None, k_error=None):
    """S = scale q k^T + bias and the bound of its error: `|scale| (gamma |q| |k|^T)` plus what storing it costs.

    The error is 0 where every partial sum is representable and the scale is a power of four, wherever it is applied.
    `q_error` and `k_error` (both or none) bound errors that q and k already carry.
    """
    c = contract
    kT = k.swapaxes(-1, -2)
    abs_q, abs_k = np.abs(q), np.abs(kT)
    raw = abs_q @ abs_k
    dot = q @ kT
    S = dot * scale
    if scale == 0.0:
        E = np.zeros_like(S)
    else:
        E = _dot_error(q, kT, abs_q, abs_k, raw, scale, c)
        if q_error is not None:
            carried = q_error @ (abs_k + k_error.swapaxes(-1, -2)) + abs_q @ k_error.swapaxes(-1, -2)
            E = E + abs(scale) * (1.0 + product_factor(q.shape[-1] + c.pre, c)) * carried
        if c.scores:
            E = _stored_scores(S, dot, E, scale, c)
    if bias is not None:
        finite = np.isfinite(bias)
        added = np.where(finite, np.abs(bias), 0.0)
        rounds = 2.0 * c.u + (c.roundoff(c.scores) if c.scores else 0.0)
        E = E + np.where(added > 0.0, rounds * (np.abs(S) + added + E), 0.0)
        S = S + bias
    if keep is not None:
        S = np.where(keep, S, -np.inf)
    return Scores(S, E, raw)


def _dot_error(q, kT, abs_q, abs_k, raw, scale, c):
    if c.pre_fmt:  # both operands may be rounded after scaling
        relative = 2.0 * c.roundoff(c.pre_fmt)
        absolute = SMALLEST_SUBNORMAL[c.pre_fmt] / min(1.0, abs(scale))
        t = product_factor(q.shape[-1] + c.pre, c)
        q_error, k_error = relative * abs_q + absolute, relative * abs_k + absolute
        E = t * raw + (1.0 + t) * (q_error @ (abs_k + k_error) + abs_q @ k_error)
        return abs(scale) * (E + underflow_of_product(abs_q, abs_k, c)) + c.eta
    power = c.exact_dot and is_power_of_four(scale)
    t = product_factor(q.shape[-1] + (0 if power else c.pre), c)
    E = abs(scale) * (t * raw + underflow_of_product(abs_q, abs_k, c)) + c.eta
    return np.where(sums_exactly(q, kT, raw, c, scale), 0.0, E) if power else E


def _stored_scores(S, dot, E, scale, c):
    u = c.roundoff(c.scores)
    rounded = E + (np.abs(S) + E) * gamma(c.n_scores, u) + c.n_scores * (1 + abs(scale)) * SMALLEST_SUBNORMAL[c.scores]
    exact = E == 0.0
    if not exact.any():
        return rounded
    limit = 2.0 ** significant_digits(u)
    for stage in (S, dot):
        bit = last_bit(stage)
        exact &= (np.abs(stage) < bit * limit) & (bit >= SMALLEST_SUBNORMAL[c.scores])
    return np.where(exact, 0.0, rounded)


def deviation(W, v, O):
    """sum_j W_ij |v_j - O_i|, (..., rows, dv): softmax does not see constants, and neither does a tight budget."""
    rows, n = W.shape[-2:]
    dv = v.shape[-1]
    values = v[..., None, :, :]
    if W.size * dv <= CHUNK:
        return _deviation(W, values, O)
    step = max(1, CHUNK * rows // (W.size * dv))
    return np.concatenate([_deviation(W[..., i:i + step, :], values, O[..., i:i + step, :])
                           for i in range(0, rows, step)], axis=-2)


def _deviation(W, values, O):
    distance = values - O[..., :, None, :]
    np.abs(distance, out=distance)
    return (W[..., None, :] @ distance)[..., 0, :]


def _hull(v, O, seen):
    """max_j |v_j - O_i| and max_j |v_j| over the visible keys."""
    if seen is None:
        top, bottom = v.max(-2, keepdims=True), v.min(-2, keepdims=True)
    else:
        expanded, shown = v[..., None, :, :], seen[..., None]
        top = np.where(shown, expanded, -np.inf).max(-2)
        bottom = np.where(shown, expanded, np.inf).min(-2)
        top, bottom = np.where(top == -np.inf, 0.0, top), np.where(bottom == np.inf, 0.0, bottom)
    return np.maximum(top - O, O - bottom), np.maximum(np.abs(top), np.abs(bottom))


class Attended(NamedTuple):
    """Attention of given scores: exact values and budgets before the result is stored in the output's format."""

    O: np.ndarray
    budget: np.ndarray
    lse: np.ndarray  # (..., rows)
    lse_budget: np.ndarray
    weights: object
    numerator: float  # the largest unnormalised sum, which the accumulator has to hold


def attend(scores, v, contract, *, splits=None, v_error=None):
    """O = softmax(S) v and the bound of its error.

    The numerator is `sum_j P_j (1 + rho_j)(1 + theta_j) v_j`, the denominator `sum_j P_j (1 + rho_j)(1 + phi_j)` with
    one and the same rho_j in both, `|rho_j| <= r_j = exp(eps_j) - 1`, `|theta_j| <= t_N`, `|phi_j| <= t_D`. Hence

        |O^ - O| <= (sum_j P_j r_j |v_j - O| + (t_N sum_j P_j e^eps_j |v_j|) + t_D |O| sum_j P_j e^eps_j + underflow)
                    / ((1 - t_D) sum_j P_j e^-eps_j)

    The weights of a correct implementation are >= 0 and normalised whatever the errors of the scores are, so the
    result is also within the convex hull of the visible values (up to t_N, t_D), which takes over where scores carry
    no information. Partial results that are merged with exp(lse_i - lse) `splits` times are not normalised again:
    `|lse| u` joins t_N. `v_error` bounds errors that v already carries.
    """
    c = contract
    S, E, _ = scores
    w = weights_of(S, E, c, splits=splits)
    n = S.shape[-1]
    u_probs = c.roundoff(c.probs) if c.probs else 0.0
    t_N = (1.0 + u_probs) * (1.0 + c.u_in) ** 2 * (1.0 + gamma(c.mm * (n + w.merges) + c.div_c + w.merges, c.u)) - 1.0
    t_D = min(gamma(n + w.merges, c.u), 0.99)
    largest = w.eps.max(-1, keepdims=True, initial=0.0)
    if c.lse_merge:
        t_N = t_N + c.u * w.splits * (c.exp_c + 6.0 * (np.abs(w.M) + np.log(w.D)) + 6.0 * np.minimum(largest, WILD_EPS))
        if c.scores:
            t_N = t_N + gamma(w.splits, c.roundoff(c.out))
    O = w.P @ v
    abs_v, abs_O = np.abs(v), np.abs(O)
    up = np.exp(np.minimum(w.eps, WILD_EPS))
    raised = w.P * up
    low = (1.0 - t_D) * (w.P / up).sum(-1, keepdims=True)
    if w.empty is not None:
        low = low + w.empty
    seen = None if w.hidden is None else ~w.hidden
    flushed = (c.flush + c.eta) / w.D
    common = deviation(raised - w.P + (flushed if seen is None else flushed * seen), v, O)
    total = raised @ (abs_v if v_error is None else abs_v + v_error)
    underflow = n * c.eta * (1.0 + abs_O)
    if c.probs:
        underflow = underflow + SMALLEST_SUBNORMAL[c.probs] * (
            abs_v.sum(-2, keepdims=True) if seen is None else seen @ abs_v)
    budget = (common + t_N * total + t_D * abs_O * raised.sum(-1, keepdims=True) + underflow) / low
    if v_error is not None:
        budget = budget + (raised @ v_error) / low
    elif n and (largest > 0.3).any():  # elsewhere the hull is wider
        far, far_v = _hull(v, O, seen)
        hull = far * (1.0 + n * flushed) + 1.0001 * t_N * far_v + 2.0 * t_D * abs_O + underflow
        budget = np.where(largest > WILD_EPS, hull, np.minimum(budget, hull))
    budget = budget + gamma(c.div_c, c.u) * (abs_O + budget)
    lse, lse_budget = lse_of(w, c)
    if w.empty is not None:
        budget = np.where(w.empty, 0.0, budget)
    numerator = float((total * w.D).max(initial=0.0))
    return Attended(O, budget, lse[..., 0], lse_budget[..., 0], w, numerator)
