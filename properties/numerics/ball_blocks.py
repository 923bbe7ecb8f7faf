"""Enclosures of what stands around attention: normalisation, projections, positions, linear attention, GELU."""

import numpy as np

from . import movement
from .arbs import arb, array, balls_of, elementwise, matmul
from .attention import visible
from .blocks import kept


def _normalised(a):
    x, n = a["x"], arb(a["x"].shape[-1])
    centred = x - x.sum(-1, keepdims=True) / n
    variance = (centred * centred).sum(-1, keepdims=True) / n
    rstd = elementwise("rsqrt", variance + arb(float(a.get("eps", 1e-5))))
    return centred * rstd, rstd


def layer_norm(a, conventions):
    """(y,)."""
    return (_normalised(a)[0] * a["weight"] + a["bias"],)


def layer_norm_backward(a, conventions):
    """(dx, dw, db)."""
    (x_hat, rstd), g, n = _normalised(a), a["dy"] * a["weight"], arb(a["x"].shape[-1])
    dx = rstd * (g - g.sum(-1, keepdims=True) / n - x_hat * ((g * x_hat).sum(-1, keepdims=True) / n))
    flat = (-1, a["x"].shape[-1])
    return dx, (a["dy"] * x_hat).reshape(flat).sum(0), a["dy"].reshape(flat).sum(0)


def multi_head_attention(attend):
    """(y,) by way of `attend(arguments, conventions)`, the enclosure of attention."""
    def enclosure(a, conventions):
        heads = a["n_heads"]
        q, k, v = (movement.split_heads(_rows_times(a[x], a[w]), h) for x, w, h in
                   (("x_q", "wq", heads), ("x_kv", "wk", a.get("n_kv_heads") or heads),
                    ("x_kv", "wv", a.get("n_kv_heads") or heads)))
        out, _ = attend({"q": q, "k": k, "v": v, "causal": a.get("causal", False), "mask": a.get("mask")}, conventions)
        return (_rows_times(movement.merge_heads(out), a["wo"]),)
    return enclosure


def _rows_times(x, weight):
    return matmul(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], weight.shape[-1])


def linear_attention(a, conventions):
    """(out,)."""
    phi_q, phi_k = (array(x.shape, [item + 1 if item > 0 else item.exp() for item in x.flat]) for x in (a["q"], a["k"]))
    lq, lk = phi_q.shape[2], phi_k.shape[2]
    keep = visible(lq, lk, causal=a.get("causal", False), alignment=conventions["causal"])
    out = np.full((*phi_q.shape[:3], a["v"].shape[-1]), arb(0), dtype=object)
    for i, h in np.ndindex(out.shape[:2]):
        weights = matmul(phi_q[i, h], phi_k[i, h].T)
        weights = weights if keep is None else np.where(keep, weights, arb(0))
        for row in range(lq):
            total = weights[row].sum()
            if lk and total > 0:
                out[i, h, row] = (weights[row][:, None] * a["v"][i, h]).sum(0) / total
    return (out,)


def _angles(positions, exponents, base):
    waves = elementwise("exp", array(len(exponents), [-e * arb(base).log() for e in exponents]))
    return balls_of(positions)[..., None] * waves


def rope(a, conventions):
    """(y,)."""
    x, half = a["x"], a["x"].shape[-1] // 2
    positions = np.asarray(a["positions"], dtype=np.float64)
    positions = positions[:, None] if positions.ndim == 2 else positions
    angles = _angles(positions, [arb(i) / half for i in range(half)], float(a.get("base", 10000.0)))
    cos, sin = elementwise("cos", angles), elementwise("sin", angles)
    interleaved = conventions.get("rope", "half") == "interleaved"
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    turned = first * cos - second * sin, second * cos + first * sin
    return (np.stack(turned, -1).reshape(x.shape) if interleaved else np.concatenate(turned, -1),)


def sinusoidal_positions(a, conventions):
    """(y,)."""
    length, d = a["length"], a["d"]
    angles = _angles(np.arange(length), [arb(2 * (column // 2)) / d for column in range(d)], 10000.0)
    return (np.where(np.arange(d) % 2 == 0, elementwise("sin", angles), elementwise("cos", angles)),)


def gelu(a, conventions):
    """(y,)."""
    x = a["x"]
    return (x * elementwise("erfc", -x * arb(0.5).sqrt()) * arb(0.5),)


def dropout(a, conventions):
    """(y, mask)."""
    mask, p = kept(a), a["p"]
    return np.where(mask, a["x"] / (1 - arb(p) if p < 1 else arb(1)), arb(0)), balls_of(mask)


OPERATIONS = {
    "layer_norm": layer_norm,
    "layer_norm_backward": layer_norm_backward,
    "linear_attention": linear_attention,
    "rope": rope,
    "sinusoidal_positions": sinusoidal_positions,
    "gelu": gelu,
    "dropout": dropout,
}
