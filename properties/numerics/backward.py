"""Gradients of softmax and of attention."""

import numpy as np

from . import softmax as weights
from . import special
from .attention import attend, default_scale, scores_of, visible
from .classes import stored
from .movement import repeat_kv
from .rounding import LARGEST, SMALLEST_SUBNORMAL, gamma, product_budget


def softmax_backward(a, contract, conventions):
    """dx = y (dy - <y, dy>), also as y dy - y <y, dy>, which rounds at the scale of its two terms."""
    c, y, dy = contract, a["y"], a["dy"]
    n = y.shape[-1]
    abs_y, abs_dy = np.abs(y), np.abs(dy)
    product = y * dy
    delta = product.sum(-1, keepdims=True)
    size = np.abs(product).sum(-1, keepdims=True)
    delta_error = gamma(n + 1, c.u) * size + c.eta * (n + abs_y.sum(-1, keepdims=True) + abs_dy.sum(-1, keepdims=True))
    t = gamma(3, c.u)
    if c.scores:
        delta_error = delta_error + gamma(2, c.roundoff(c.scores)) * (size + delta_error)
        t = (1.0 + t) * (1.0 + gamma(3, c.roundoff(c.scores))) - 1.0
    reach = abs_dy + np.abs(delta) + delta_error
    budget = abs_y * (delta_error + t * reach) + 3.0 * c.eta * (1.0 + abs_y + reach)
    kind = None
    if not np.isfinite(size).all():
        kind = np.where(np.isfinite(size), np.int8(special.FIN), np.int8(special.ANY)) + np.zeros(y.shape, np.int8)
    return (stored("dx", y * (dy - delta), budget, kind, c),)


def attention_backward(a, contract, conventions):
    """(dq, dk, dv) of out = softmax(scale q k^T) v for the gradient dout of out.

    With P the weights, dP = dout v^T, delta_i = sum_d dout_id out_id and dS = P (dP - delta): dq = scale dS k,
    dk = scale dS^T q, dv = P^T dout. The budget admits both ways to P, exp(S - lse) with the stored lse
    (FlashAttention) and the stored weights (eager), and both ways to delta, from the stored out and from sum_j P_j
    dP_j. The out and lse that were received may be off by more than a forward pass may be: their real deviation
    counts then, as it is not the backward pass that is to blame. Query heads of one KV head may each store their
    share of dk and dv before the sum.
    """
    c = contract
    q, dout = a["q"], a["dout"]
    n_kv_heads, group = a["k"].shape[1], q.shape[1] // max(a["k"].shape[1], 1)
    k, v = repeat_kv(a["k"], group), repeat_kv(a["v"], group)
    scale = default_scale(a.get("scale"), q.shape[-1])
    keep = visible(
        q.shape[-2], k.shape[-2], causal=a.get("causal", False), mask=a.get("mask"), alignment=conventions["causal"]
    )
    scores = scores_of(q, k, scale, c, keep=keep)
    found = attend(scores, v, c)
    w = found.weights
    P, P_error = w.P, _recomputed_weights(scores, found, a.get("lse"), c)
    dP, dP_error = dout @ v.swapaxes(-1, -2), product_budget(dout, v.swapaxes(-1, -2), c, extra=2)
    if c.scores:
        dP_error = dP_error + c.roundoff(c.scores) * (np.abs(dP) + dP_error) + SMALLEST_SUBNORMAL[c.scores]
    delta = (dout * found.O).sum(-1, keepdims=True)
    delta_error = _delta_error(dout, found, a.get("out"), P, P_error, dP, dP_error, c)
    X = dP - delta
    reach = np.abs(dP) + dP_error + np.abs(delta) + delta_error
    X_error = dP_error + delta_error + c.u * reach
    dS = P * X
    dS_error = (P + P_error) * X_error + P_error * np.abs(X)
    dS_error = dS_error + gamma(4, c.u) * (np.abs(dS) + dS_error) + c.eta
    if c.probs:
        dS_error = (
            dS_error + gamma(2, c.roundoff(c.probs)) * (np.abs(dS) + dS_error) + 2.0 * SMALLEST_SUBNORMAL[c.probs]
        )
    if w.hidden is not None:
        dS_error = np.where(w.hidden, 0.0, dS_error)
    dq = _gradient(dS, dS_error, k, scale, c)
    dk = _gradient(dS.swapaxes(-1, -2), dS_error.swapaxes(-1, -2), q, scale, c)
    PT = P.swapaxes(-1, -2)
    dv = PT @ dout, product_budget(PT, dout, c, extra=4, a_error=P_error.swapaxes(-1, -2))
    results = [("dq", *dq), ("dk", *_over_group(*dk, n_kv_heads, c)), ("dv", *_over_group(*dv, n_kv_heads, c))]
    usual = (
        scores.raw.max(initial=0.0) * max(1.0, abs(scale)) < c.score_limit
        and all(np.abs(x).max(initial=0.0) < 0.25 * LARGEST[c.acc] for x in (q, k, v, dout))
        and reach.max(initial=0.0) < c.score_limit
        and (np.abs(dS) + dS_error).max(initial=0.0) < LARGEST[c.probs or c.acc]
        and all(np.abs(x).max(initial=0.0) < c.score_limit * min(1.0, abs(scale)) or scale == 0.0 for x, _ in (dq, dk))
    )
    free = not usual or (w.empty is not None and conventions["empty_row"] == "nan")
    return tuple(stored(name, value, budget, np.full(value.shape, special.ANY, np.int8) if free else None, c)
                 for name, value, budget in results)


def _recomputed_weights(scores, found, lse, c):
    w, S = found.weights, scores.S
    seen = S != -np.inf
    L = np.where(np.isfinite(found.lse), found.lse, 0.0)[..., None]
    lse_error = found.lse_budget[..., None]
    if lse is not None:
        lse_error = np.maximum(lse_error, np.where(np.isfinite(found.lse), np.abs(lse - found.lse), 0.0)[..., None])
    abs_S, gap = np.where(seen, np.abs(S), 0.0), np.where(seen, np.abs(L - S), 0.0)
    eps = scores.E + lse_error + c.u * (c.exp_c + c.exp_x * gap + 2.0 * c.exp_m * (abs_S + np.abs(L)))
    # exp(S - lse) is not normalised: an lse that is far off has no bound but its own exponential (and may overflow)
    error = np.maximum(weights.probability_budget(w, c), w.P * np.expm1(np.minimum(eps, 700.0)) + c.flush)
    if c.probs:
        error = error + (w.P + error) * c.roundoff(c.probs) + SMALLEST_SUBNORMAL[c.probs]
    return np.where(seen, error, 0.0)


def _delta_error(dout, found, out, P, P_error, dP, dP_error, c):
    d, n = dout.shape[-1], P.shape[-1]
    abs_dout = np.abs(dout)
    O_error = weights.stored(found.O, found.budget, c)
    if out is not None:
        O_error = np.maximum(O_error, np.abs(out - found.O))
    from_out = ((abs_dout * O_error).sum(-1, keepdims=True) + d * c.eta
                + gamma(d + 2, c.u) * (abs_dout * (np.abs(found.O) + O_error)).sum(-1, keepdims=True))
    reach = (P + P_error) * (np.abs(dP) + dP_error)
    from_weights = ((P_error * np.abs(dP) + (P + P_error) * dP_error).sum(-1, keepdims=True)
                    + gamma(n + 2, c.u) * reach.sum(-1, keepdims=True) + n * c.eta)
    error = np.maximum(from_out, from_weights)
    if c.scores:
        error = error + gamma(2, c.roundoff(c.scores)) * (reach.sum(-1, keepdims=True) + error)
    return error


def _gradient(dS, dS_error, x, scale, c):
    value = scale * (dS @ x)
    x_error = 2.0 * c.roundoff(c.pre_fmt) * np.abs(x) if c.pre_fmt else None
    budget = abs(scale) * product_budget(dS, x, c, extra=c.pre + 2, a_error=dS_error, b_error=x_error) + c.eta
    if c.scores:  # stored, then scaled, then stored again
        budget = budget + gamma(2, c.roundoff(c.scores)) * (np.abs(value) + budget) + SMALLEST_SUBNORMAL[c.scores]
    return value, budget


def _over_group(value, budget, n_kv_heads, c):
    """Sum of the heads that share a KV head, each of which may have been stored first."""
    if value.shape[1] == n_kv_heads:
        return value, budget
    b, h, length, d = value.shape
    group = h // n_kv_heads
    value, budget = (x.reshape(b, n_kv_heads, group, length, d) for x in (value, budget))
    reach = np.abs(value) + budget
    budget = budget.sum(2) + gamma(group, c.roundoff(c.out)) * reach.sum(2) + group * c.out_floor
    return value.sum(2), np.where(reach.max(2) < LARGEST[c.out], budget, np.inf)
