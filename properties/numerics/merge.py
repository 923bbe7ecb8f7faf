"""Merging two partial softmax results: online states (m, l, acc) or finished pairs (out, lse)."""

import numpy as np

from .rounding import gamma


def merge(m, l, acc, contract):
    """out = acc / l and lse = m + log l of two merged states and their budgets.

    m, l are pairs (first, second) of arrays (...,), acc a pair of arrays (..., d); l >= 0, m is any finite reference or
    -inf for the empty state. With M = max(m_1, m_2) the merged state is N = sum_i w_i acc_i and L = sum_i w_i l_i,
    where w_i = exp(m_i - M): attention over two "keys" of weights w_i l_i whose numerators are w_i acc_i. The
    computed factor is common to both, w_i exp(eta_i) with `|eta_i| <= u (exp_c + exp_x |m_i - M| + exp_m (|m_i| +
    |M|))`; every product and sum adds one rounding, so t = gamma_2. From `sum_i w_i (acc_i - O l_i) = 0` follows

        N^ - O L^ = sum_i w_i (e^eta_i - 1)(acc_i - O l_i) + sum_i w_i e^eta_i (theta_i acc_i - phi_i O l_i)

    and hence `|out^ - O| <= (sum_i w_i (e^|eta_i| - 1)|acc_i - O l_i| + t sum_i w_i e^|eta_i| (|acc_i| + |O| l_i) +
    underflow) / (sum_i w_i e^-|eta_i| l_i (1 - t) - underflow)`, and `|lse^ - lse|` is at most the logarithm of the
    spread of L^. The result's own m and l are free as long as out and lse are right. Returns (out, budget, lse,
    budget, empty).
    """
    c = contract
    m, l, acc = (np.stack(np.broadcast_arrays(*pair)) for pair in (m, l, acc))
    M = m.max(0)
    empty = M == -np.inf
    M = np.where(empty, 0.0, M)
    gap = M - m
    w = np.exp(-gap)
    absent = gap == np.inf
    gap[absent] = 0.0
    abs_m = np.abs(m)
    abs_m[absent] = 0.0
    eta = c.u * (c.exp_c + c.exp_x * gap + c.exp_m * (abs_m + np.abs(M)))
    eta[absent] = 0.0
    t = gamma(2 + c.div_c, c.u)
    mass = w * l
    L = mass.sum(0)
    empty = empty | (L == 0.0)
    safe = np.where(empty, 1.0, L)
    O = (w[..., None] * acc).sum(0) / safe[..., None]
    abs_O, abs_acc = np.abs(O), np.abs(acc)
    up = np.exp(np.minimum(eta, 60.0))
    apart = np.abs(acc - O * l[..., None])
    together = abs_acc + abs_O * l[..., None]
    flush = np.where(absent, 0.0, c.flush)
    above = ((w * (up - 1.0) + flush)[..., None] * apart + (t * w * up)[..., None] * together).sum(0)
    above = above + 4.0 * c.eta * (1.0 + abs_O)
    lost = (flush * l).sum(0) + 4.0 * c.eta
    low = (mass / up).sum(0) * (1.0 - t) - lost
    high = (mass * up).sum(0) * (1.0 + t) + lost
    certain = low > 0.0
    low = np.where(certain, low, 1.0)
    budget = np.where((empty | certain)[..., None], above / low[..., None], np.inf)
    budget = np.where(empty[..., None], 0.0, budget)
    log_L = np.log(safe)
    lse = M + log_L
    lse_budget = np.maximum(np.log(np.where(empty, 1.0, high) / safe), np.log(safe / low))
    lse_budget = lse_budget + c.u * (4.0 + 4.0 * np.abs(log_L) + (2.0 * c.exp_m + 2.0) * np.abs(M) + 2.0 * np.abs(lse))
    lse_budget = np.where(empty, 0.0, np.where(certain, lse_budget, np.inf))
    return O, budget, np.where(empty, -np.inf, lse), lse_budget, empty


def merge_lse(out, lse, contract):
    """The same for finished pairs: states of l = 1, m = lse and acc = out.

    Three formulas are in use. Renormalised weights are the merge of such states. Weights exp(lse_i - lse) that are not
    normalised again carry the error of lse itself, `sum_i w_i (exp(eta_i + E_lse) - 1)|out_i|`. And
    `out_1 - sigmoid(lse_2 - lse_1)(out_1 - out_2)` and `lse_1 - log sigmoid(lse_1 - lse_2)` (ring attention) round at
    the scale of the larger output and of |lse_1 - lse_2|. The budget is the sum of what the three need. Returns (out,
    budget, lse, budget, empty).
    """
    c = contract
    apart = np.abs(lse[0] - lse[1])
    one = tuple(np.where(np.asarray(x) == -np.inf, 0.0, 1.0) for x in lse)
    O, budget, L, L_budget, empty = merge(lse, one, out, c)
    L_budget = L_budget + 3.0 * c.u * np.where(np.isfinite(apart), apart, 0.0)
    finite = np.where(empty, 0.0, L)
    weight = [np.exp(x - finite) for x in lse]
    size = sum(w[..., None] * np.abs(o) for w, o in zip(weight, out))
    shift = np.where(empty, 0.0, np.expm1(np.minimum(L_budget, 60.0)))
    t = gamma(3 + c.div_c, c.u) + (gamma(3, c.roundoff(c.scores)) if c.scores else 0.0)
    budget = budget + shift[..., None] * size + t * np.maximum(size, np.maximum(np.abs(out[0]), np.abs(out[1])))
    return O, np.where(empty[..., None], 0.0, budget), L, L_budget, empty
