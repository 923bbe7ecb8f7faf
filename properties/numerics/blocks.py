"""What stands around attention in a transformer: projections, positions, linear attention, GELU."""

import math

import numpy as np

from . import movement, special
from .attention import attend, default_scale, deviation, grouped, grouped_pairs, scores_of, visible
from .classes import exactly, stored
from .rounding import LARGEST, SMALLEST_SUBNORMAL, gamma, product_budget


def _projected(x, weight, c):
    """x @ weight and its error, which may be stored in the output's format before it is used."""
    value, budget = x @ weight, product_budget(x, weight, c)
    return value, budget + c.roundoff(c.out) * (np.abs(value) + budget) + c.out_floor


def multi_head_attention(a, contract, conventions):
    """(y,): every projection carries its error into the scores, the values and the last projection."""
    c, n_heads = contract, a["n_heads"]
    n_kv_heads = a.get("n_kv_heads") or n_heads
    (q, q_error), (k, k_error), (v, v_error) = (
        tuple(movement.split_heads(part, heads) for part in _projected(a[x], a[w], c))
        for x, w, heads in (("x_q", "wq", n_heads), ("x_kv", "wk", n_kv_heads), ("x_kv", "wv", n_kv_heads)))
    shape, scale = q.shape[:-1] + k.shape[-2:-1], default_scale(None, q.shape[-1])
    keep = visible(
        q.shape[-2], k.shape[-2], causal=a.get("causal", False), mask=a.get("mask"), alignment=conventions["causal"]
    )
    scores = scores_of(grouped(q, n_kv_heads), k, scale, c, keep=grouped_pairs(keep, shape, n_kv_heads),
                       q_error=grouped(q_error, n_kv_heads), k_error=k_error)
    found = attend(scores, v, c, v_error=v_error)
    out_shape = q.shape[:-1] + v.shape[-1:]
    O, O_error = found.O.reshape(out_shape), found.budget.reshape(out_shape)
    O_error = O_error + c.roundoff(c.out) * (np.abs(O) + O_error) + c.out_floor
    heads, heads_error = movement.merge_heads(O), movement.merge_heads(O_error)
    budget = product_budget(heads, a["wo"], c, a_error=heads_error)
    usual = (
        max(np.abs(x).max(initial=0.0) for x in (q, k, v)) < LARGEST[c.out]
        and scores.raw.max(initial=0.0) < c.score_limit
    )
    free = not usual or (found.weights.empty is not None and conventions["empty_row"] == "nan")
    value = heads @ a["wo"]
    return (stored("y", value, budget, np.full(value.shape, special.ANY, np.int8) if free else None, c),)


def _feature_map(x, c):
    """phi = elu(x) + 1 and its error: exp(x) by itself, or (exp(x) - 1) + 1, which rounds at the scale of 1."""
    negative = np.minimum(x, 0.0)
    value = np.where(x > 0, x + 1.0, np.exp(negative))
    u = c.u + (c.roundoff(c.probs) if c.probs else 0.0)
    relative = np.expm1(c.u * (c.exp_c + c.exp_x * np.abs(negative)))
    return value, value * relative + 3.0 * c.u * np.maximum(1.0, value) + u * value + c.flush


def linear_attention(a, contract, conventions):
    """(out,): weights phi(q).phi(k) >= 0 whose errors are common to numerator and denominator, as in attention."""
    c, q, k, v = contract, a["q"], a["k"], a["v"]
    (phi_q, q_error), (phi_k, k_error) = _feature_map(q, c), _feature_map(k, c)
    keep = visible(q.shape[-2], k.shape[-2], causal=a.get("causal", False), alignment=conventions["causal"])
    shown = 1.0 if keep is None else keep.astype(float)
    kT, kT_error = phi_k.swapaxes(-1, -2), k_error.swapaxes(-1, -2)
    W = (phi_q @ kT) * shown
    W_error = (q_error @ (kT + kT_error) + phi_q @ kT_error) * shown
    n, d = k.shape[-2], q.shape[-1]
    u_state = c.roundoff(c.probs) if c.probs else 0.0
    t = (1.0 + u_state) ** 2 * (1.0 + c.u_in) ** 2 * (1.0 + gamma(c.mm * (n + d) + c.div_c, c.u)) - 1.0
    total = W.sum(-1, keepdims=True)
    empty = np.broadcast_to(np.ones(1, bool) if n == 0 else ~(shown > 0).any(-1, keepdims=True) if keep is not None
                            else np.zeros(1, bool), total.shape)
    O = (W @ v) / np.where(empty, 1.0, total)
    reach = W + W_error
    absolute = c.eta * (n + d) * (1.0 + np.abs(O))
    above = deviation(W_error, v, O) + t * (reach @ np.abs(v) + np.abs(O) * reach.sum(-1, keepdims=True)) + absolute
    low = (W - W_error).sum(-1, keepdims=True) * (1.0 - t) - c.eta * (n + d)
    budget = np.where(empty, 0.0, np.where(low > 0, above / np.where(low > 0, low, 1.0), np.inf))
    budget = budget + gamma(c.div_c, c.u) * (np.abs(O) + budget)
    kind = np.where(empty, np.int8(special.NAN), np.int8(special.FIN)) + np.zeros(O.shape, np.int8) \
        if conventions["empty_row"] == "nan" and empty.any() else None
    return (stored("out", O, budget, kind, c),)


def _rotation(positions, wavelengths, c):
    """cos, sin of positions * wavelengths and their error: the angle in the accumulator, exponent, power and product
    each rounded, then cos and sin, which may be stored in the type of the weights."""
    angle = positions[..., None] * wavelengths
    powers = np.abs(np.log(wavelengths))
    error = np.abs(angle) * c.u * (8.0 + 4.0 * powers) + 4.0 * c.u
    if c.probs:
        error = error + c.roundoff(c.probs)
    return np.cos(angle), np.sin(angle), np.minimum(error, 2.0)


def rope(a, contract, conventions):
    """(y,): pairs (x[i], x[i + D/2]), or neighbours where the convention is "interleaved", rotated by their angle."""
    c, x, base = contract, a["x"], float(a.get("base", 10000.0))
    half = x.shape[-1] // 2
    positions = np.asarray(a["positions"], dtype=np.float64)
    positions = positions[:, None] if positions.ndim == 2 else positions
    cos, sin, error = _rotation(positions, base ** (-np.arange(half) / max(half, 1)), c)
    interleaved = conventions.get("rope", "half") == "interleaved"
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    size = np.abs(first) + np.abs(second)
    u = gamma(3, c.roundoff(c.scores)) if c.scores else gamma(3, c.u)
    budget = size * (error + u * (1.0 + error)) + 4.0 * c.eta * (1.0 + size)
    turned = first * cos - second * sin, second * cos + first * sin
    value = np.stack(turned, -1).reshape(x.shape) if interleaved else np.concatenate(turned, -1)
    budget = np.repeat(budget, 2, -1) if interleaved else np.concatenate([budget, budget], -1)
    return (stored("y", value, budget, None, c),)


def sinusoidal_positions(a, contract, conventions):
    """(y,): sin(pos / 10000^(2i/d)) in column 2i, cos in 2i + 1."""
    length, d = a["length"], a["d"]
    columns = np.arange(d)
    cos, sin, error = _rotation(
        np.arange(length, dtype=np.float64), 10000.0 ** (-2.0 * (columns // 2) / max(d, 1)), contract
    )
    return (stored("y", np.where(columns % 2 == 0, sin, cos), error, None, contract),)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def gelu(a, contract, conventions):
    """(y,): x Phi(x), Phi the normal distribution function; 1 + erf rounds at the scale of 1, in the tail too."""
    c, x = contract, a["x"]
    value = 0.5 * x * (_erfc(-x * math.sqrt(0.5)) if x.size else x)
    density = np.exp(-0.5 * np.minimum(x * x, 1400.0))
    budget = np.abs(x) * c.u * (8.0 + 4.0 * np.abs(x) * density) + 4.0 * c.eta
    if c.scores:
        budget = budget + np.abs(x) * (gamma(3, c.roundoff(c.scores)) + SMALLEST_SUBNORMAL[c.scores])
    return (stored("y", value, budget, None, c),)


def kept(a):
    """The mask that dropout drew; without one in the arguments, one is drawn from the seed."""
    return a["mask"] if "mask" in a else np.random.default_rng(a["seed"]).random(a["x"].shape) >= a["p"]


def dropout(a, contract, conventions):
    """(y, mask): x / (1 - p) where the mask, as it was drawn, is True, else 0; a dropped NaN or infinity may stay NaN.

    p may be held in the accumulator's type, which moves 1 - p by u p; a contract that stores scores may also store the
    factor 1 / (1 - p) and round the product in the input's type (PyTorch).
    """
    c, x, p, mask = contract, a["x"], float(a["p"]), kept(a)
    value = np.where(mask, x / (1.0 - p) if p < 1.0 else 0.0, 0.0)
    relative = gamma(3, c.u) + c.u * p / (1.0 - p) if p < 1.0 else 0.0
    if c.scores:
        relative = relative + gamma(2, c.roundoff(c.scores))
    kind = np.where(mask | np.isfinite(x), special.FIN, special.ZERO_OR_NAN).astype(np.int8)
    y = stored("y", value, np.where(mask, np.abs(value) * relative + 4.0 * c.eta, 0.0), kind, c)
    return y, *exactly("mask", mask)
