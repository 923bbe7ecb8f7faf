"""Layer normalisation over the last dim, biased variance, eps inside the root (Ba, Kiros & Hinton 2016)."""

from typing import NamedTuple

import numpy as np

from .classes import stored
from .rounding import LARGEST, gamma


class Moments(NamedTuple):
    """Mean, centred values and 1 / sqrt(var + eps), each with the bound of its error."""

    mean: np.ndarray
    mean_error: np.ndarray
    centred: np.ndarray
    centred_error: np.ndarray
    rstd: np.ndarray
    rstd_error: np.ndarray


def moments(x, eps, c):
    """Two passes or Welford: every centred value is off by the error of the mean and one rounding; the variance by
    `2 mean |x_c| e + mean e^2` and its sum. 1 / sqrt is monotone, so its error follows from the ends of the interval.
    `two_pass = False` admits E x^2 - (E x)^2, which rounds at the scale of E x^2."""
    n, u = x.shape[-1], c.u
    mean = x.mean(-1, keepdims=True)
    mean_error = gamma(n + 1, u) * np.abs(x).mean(-1, keepdims=True) + c.eta
    centred = x - mean
    abs_centred = np.abs(centred)
    centred_error = mean_error + u * (abs_centred + mean_error) + c.eta
    variance = (centred * centred).mean(-1, keepdims=True)
    variance_error = (2.0 * abs_centred * centred_error + centred_error * centred_error).mean(-1, keepdims=True)
    variance_error = variance_error + gamma(n + 2, u) * (variance + variance_error) + 2.0 * c.eta
    if not c.two_pass:
        square = (x * x).mean(-1, keepdims=True)
        variance_error = np.maximum(variance_error, 2.0 * gamma(n + 3, u) * square
                                    + 2.0 * np.abs(mean) * mean_error + mean_error**2)
    inside = variance + eps
    relative = variance_error / inside + 2.0 * u
    lowest = np.maximum(inside * (1.0 - relative), eps * (1.0 - 4.0 * u))
    rstd, highest = 1.0 / np.sqrt(inside), 1.0 / np.sqrt(lowest)
    rstd_error = np.maximum(highest - rstd, rstd - 1.0 / np.sqrt(inside * (1.0 + relative))) + 4.0 * u * highest
    return Moments(mean, mean_error, centred, centred_error, rstd, rstd_error)


def handed_over(m, c):
    """The moments as a backward pass receives them that is handed what the forward pass stored: mean and rstd are both
    rounded once more, and a mean that is off by d moves every centred value by d. An rstd that does not fit is free."""
    if not c.half_stats or c.out == c.acc:
        return m
    u, floor = c.roundoff(c.out), c.out_floor
    mean_rounded, rstd_high = u * (np.abs(m.mean) + m.mean_error) + floor, m.rstd + m.rstd_error
    rstd_rounded = np.where(rstd_high < LARGEST[c.out], u * rstd_high + floor, np.inf)
    return m._replace(mean_error=m.mean_error + mean_rounded, rstd_error=m.rstd_error + rstd_rounded,
                      centred_error=m.centred_error + mean_rounded * (1.0 + c.u))


def normalised(m, u):
    """x_hat = (x - mean) rstd and the bound of its error."""
    x_hat = m.centred * m.rstd
    error = m.centred_error * (m.rstd + m.rstd_error) + np.abs(m.centred) * m.rstd_error
    return x_hat, error + gamma(3, u) * (np.abs(x_hat) + error)


def layer_norm(a, contract, conventions):
    """(y,); also computed as x (rstd weight) + (bias - mean rstd weight), which rounds at the scale of the shift."""
    c, x, weight, bias = contract, a["x"], a["weight"], a["bias"]
    m = moments(x, a.get("eps", 1e-5), c)
    x_hat, x_hat_error = normalised(m, c.u)
    scaled, abs_weight = x_hat * weight, np.abs(weight)
    terms = np.abs(scaled) + abs_weight * x_hat_error + np.abs(bias)
    shift = (np.abs(m.mean) + m.mean_error) * (m.rstd + m.rstd_error) * abs_weight
    budget = abs_weight * x_hat_error + gamma(3, c.u) * (terms + shift) + 3.0 * c.eta * (1.0 + abs_weight)
    return (stored("y", scaled + bias, budget, None, c),)


def layer_norm_backward(a, contract, conventions):
    """(dx, dw, db) with g = dy weight: dx = rstd (g - mean g - x_hat mean(g x_hat)), dw = sum dy x_hat, db = sum dy.

    dx is also computed as rstd g + b x + c from the sums of g and g x (PyTorch), which rounds at the scale of |x| and
    the mean rather than of the centred values; both are admitted. dw and db are summed over all rows. A contract with
    half_stats admits statistics that were stored in the output's format.
    """
    c, x, weight, dy = contract, a["x"], a["weight"], a["dy"]
    u, n, width = c.u, x.shape[-1], np.abs(x)
    m = handed_over(moments(x, a.get("eps", 1e-5), c), c)
    x_hat, x_hat_error = normalised(m, u)
    rstd_high, mean_high = m.rstd + m.rstd_error, np.abs(m.mean) + m.mean_error
    g = dy * weight
    abs_g, x_hat_high = np.abs(g) * (1.0 + u) + c.eta, np.abs(x_hat) + x_hat_error
    g_error = u * np.abs(g) + c.eta
    mean_g, mean_gx = g.mean(-1, keepdims=True), (g * x_hat).mean(-1, keepdims=True)
    mean_g_error = (g_error + gamma(n + 1, u) * abs_g).mean(-1, keepdims=True)
    mean_gx_error = (abs_g * x_hat_error + g_error * np.abs(x_hat)
                     + gamma(n + 2, u) * abs_g * x_hat_high).mean(-1, keepdims=True)
    terms = abs_g + np.abs(mean_g) + mean_g_error + x_hat_high * (np.abs(mean_gx) + mean_gx_error)
    inner = g - mean_g - x_hat * mean_gx
    inner_error = (
        g_error + mean_g_error + x_hat_error * np.abs(mean_gx) + x_hat_high * mean_gx_error + gamma(4, u) * terms
    )
    dx_error = m.rstd_error * (np.abs(inner) + inner_error) + m.rstd * inner_error + gamma(2, u) * rstd_high * terms
    sums = (abs_g * (width + mean_high)).mean(-1, keepdims=True) * rstd_high**3
    from_sums = gamma(n + 8, u) * sums * (np.abs(m.centred) + m.centred_error) + gamma(6, u) * (
        rstd_high * (abs_g + np.abs(mean_g)) + rstd_high**2 * np.abs(mean_gx) * (width + mean_high))
    from_sums = from_sums + rstd_high**3 * m.mean_error * abs_g.mean(-1, keepdims=True) * (width + mean_high)
    dx_error = dx_error + from_sums + 4.0 * c.eta * (1.0 + rstd_high)
    rows = tuple(range(x.ndim - 1))
    t = gamma(x[..., 0].size + 3, u)
    dw, db = (dy * x_hat).sum(rows), dy.sum(rows)
    dw_error = (np.abs(dy) * (x_hat_error + t * x_hat_high) + c.eta).sum(rows)
    db_error = (t * np.abs(dy) + c.eta).sum(rows)
    return (stored("dx", m.rstd * inner, dx_error, None, c), stored("dw", dw, dw_error, None, c),
            stored("db", db, db_error, None, c))
