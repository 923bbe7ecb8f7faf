"""Exact values as rigorous enclosures, in ball arithmetic (Arb, through python-flint), at 128 bits.

`enclose` gives the judged quantities of `evaluate`, each element a ball that contains the real number. It re-judges
failures: what a ball confirms cannot be an artefact of float64. It is a hundred times slower than `evaluate`, and
written to be read. Without python-flint the module imports all the same and `AVAILABLE` is False. With it, importing
this module sets the working precision of python-flint for the process, since sums and products that callers form of
the balls round at that precision.
"""

import numpy as np

from . import ball_blocks, movement
from .arbs import AVAILABLE, arb, array, balls_of, is_hidden, matmul, scale_of, softmax_rows
from .attention import visible


class NotEnclosed(ValueError):
    """No enclosure: NaN or +inf among the inputs, an operation without one, or python-flint is missing."""


def enclose(operation: str, arguments: dict, conventions: dict) -> tuple[np.ndarray, ...]:
    """Balls that contain the exact judged quantities of `operation`, as object arrays of `flint.arb`.

    `arguments` and `conventions` are those of `evaluate`; arrays may also be object arrays of balls already. -inf is
    legal where it means "no key" (scores, bias, m, lse). Raises NotEnclosed for NaN, +inf and operations without an
    enclosure.
    """
    if not AVAILABLE:
        raise NotEnclosed("python-flint is not installed")
    if operation not in _OPERATIONS:
        raise NotEnclosed(f"no enclosure of {operation}; there are {', '.join(sorted(_OPERATIONS))}")
    hidden = _MAY_BE_HIDDEN | ({"x"} if operation in ("softmax", "log_sum_exp") else set())
    given = {name: _ball_array(name, x, name in hidden) for name, x in arguments.items()}
    return _OPERATIONS[operation](given, conventions)


_MAY_BE_HIDDEN = {"scores", "bias", "m1", "m2", "lse1", "lse2"}
_NOT_NUMBERS = {"lens", "keep", "mask", "positions"}
_UNREAD = {"k_cache", "v_cache", "out", "lse"}


def _ball_array(name, x, may_be_hidden):
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or name in _NOT_NUMBERS:
        return x
    legal = np.isfinite(x) | (x == -np.inf) if may_be_hidden else np.isfinite(x)
    if name not in _UNREAD and not legal.all():
        raise NotEnclosed(f"{name} holds values that are not finite")
    return balls_of(x)


def _softmax(a, conventions):
    return (softmax_rows(a["x"])[0],)


def _masked_softmax(a, conventions):
    keep = np.broadcast_to(a["keep"], a["scores"].shape)
    return (softmax_rows(np.where(keep, a["scores"], arb("-inf")))[0],)


def _log_sum_exp(a, conventions):
    return (softmax_rows(a["x"])[1],)


def _softmax_backward(a, conventions):
    y, dy = a["y"], a["dy"]
    return (y * (dy - (y * dy).sum(-1, keepdims=True)),)


def _merge_states(m, l, acc):
    shape = m[0].shape
    out, lse = np.empty(acc[0].shape, dtype=object), np.empty(shape, dtype=object)
    for at in np.ndindex(shape):
        states = [(r[at], d[at], n[at]) for r, d, n in zip(m, l, acc) if not is_hidden(r[at])]
        total = arb(0)
        if states:
            top = max((r for r, _, _ in states), key=lambda x: float(x.mid()))
            total = sum(((r - top).exp() * d for r, d, _ in states), arb(0))
        if total == 0:
            out[at], lse[at] = [arb(0)] * acc[0].shape[-1], arb("-inf")
        else:
            numerator = sum(((r - top).exp() * n for r, _, n in states), np.full(acc[0].shape[-1], arb(0)))
            out[at], lse[at] = numerator / total, top + total.log()
    return out, lse


def _merge(a, conventions):
    return _merge_states(*((a[f"{name}1"], a[f"{name}2"]) for name in ("m", "l", "acc")))


def _merge_lse(a, conventions):
    lse = a["lse1"], a["lse2"]
    one = array(lse[0].shape, [arb(1)] * lse[0].size)
    return _merge_states(lse, (one, one), (a["out1"], a["out2"]))


def _weights(a, conventions, keep=None):
    """(weights, lse) of every head: P (B, Hq, Lq, Lk) and lse (B, Hq, Lq)."""
    q, k = a["q"], a["k"]
    (b, hq, lq, _), (lk, group) = q.shape, (k.shape[2], q.shape[1] // max(k.shape[1], 1))
    shown = visible(lq, lk, causal=a.get("causal", False), window=a.get("window"), mask=a.get("mask"),
                    alignment=conventions["causal"]) if keep is None else keep
    shown = np.broadcast_to(True if shown is None else shown, (b, hq, lq, lk))
    bias = None if a.get("bias") is None else np.broadcast_to(a["bias"], (b, hq, lq, lk))
    S = np.empty((b, hq, lq, lk), dtype=object)
    for i, h in np.ndindex(b, hq):
        S[i, h] = matmul(q[i, h], k[i, h // group].T) * scale_of(a) if lq and lk else arb(0)
        if bias is not None:
            S[i, h] = S[i, h] + bias[i, h]
    return softmax_rows(np.where(shown, S, arb("-inf")))


def _attention(a, conventions, keep=None):
    P, lse = _weights(a, conventions, keep)
    v = a["v"]
    out = np.full((*P.shape[:3], v.shape[-1]), arb(0), dtype=object)
    for i, h in np.ndindex(P.shape[:2]):
        if P[i, h].size:
            out[i, h] = matmul(P[i, h], v[i, h * v.shape[1] // P.shape[1]])
    return out, lse


def _attention_weights(a, conventions):
    return (_weights(a, conventions)[0],)


def _attention_backward(a, conventions):
    """The gradients themselves: out and lse are functions of q, k and v here, whatever was stored."""
    q, k, v, dout, scale = a["q"], a["k"], a["v"], a["dout"], scale_of(a)
    P, _ = _weights(a, conventions)
    dq, dk, dv = (np.full(x.shape, arb(0), dtype=object) for x in (q, k, v))
    for i, h in np.ndindex(P.shape[:2]):
        g = h * k.shape[1] // q.shape[1]
        if not P[i, h].size:
            continue
        dP = matmul(dout[i, h], v[i, g].T)
        dS = P[i, h] * (dP - (P[i, h] * dP).sum(-1, keepdims=True))
        dq[i, h] = matmul(dS, k[i, g]) * scale
        dk[i, g] = dk[i, g] + matmul(dS.T, q[i, h]) * scale
        dv[i, g] = dv[i, g] + matmul(P[i, h].T, dout[i, h])
    return dq, dk, dv


def _decode(a, conventions):
    caches, lens, steps = {}, np.asarray(a["lens"]).reshape(-1), a["q"].shape[2]
    for name in "kv":
        cache = caches[name] = a[f"{name}_cache"].copy()
        for b, length in enumerate(lens):
            cache[b, :, length:length + steps] = a[f"{name}_new"][b]
    out = []
    for b, length in enumerate(lens):
        read = {name: cache[b:b + 1, :, :length + steps] for name, cache in caches.items()}
        keep = movement.causal_mask(steps, int(length) + steps)
        out.append(_attention(read | {"q": a["q"][b:b + 1], "scale": a.get("scale")}, conventions, keep)[0])
    return np.concatenate(out) if out else a["q"][..., :0], caches["k"], caches["v"]


def _moved(function):
    """A single exact quantity; masks become balls 0 and 1."""
    def moved(a, conventions):
        value = np.asarray(function(a, conventions))
        return (value if value.dtype == object else array(value.shape, [arb(int(x)) for x in value.flat]),)
    return moved


_OPERATIONS = {
    "softmax": _softmax,
    "softmax_backward": _softmax_backward,
    "masked_softmax": _masked_softmax,
    "log_sum_exp": _log_sum_exp,
    "merge": _merge,
    "merge_lse": _merge_lse,
    "attention": _attention,
    "attention_weights": _attention_weights,
    "attention_backward": _attention_backward,
    "split_kv": _attention,
    "decode": _decode,
    "multi_head_attention": ball_blocks.multi_head_attention(_attention),
    **ball_blocks.OPERATIONS,
    "repeat_kv": _moved(lambda a, v: movement.repeat_kv(a["x"], a["n_rep"])),
    "split_heads": _moved(lambda a, v: movement.split_heads(a["x"], a["h"])),
    "merge_heads": _moved(lambda a, v: movement.merge_heads(a["x"])),
    "causal_mask": _moved(lambda a, v: movement.causal_mask(a["lq"], a["lk"], v["causal"])),
    "sliding_window_mask": _moved(
        lambda a, v: movement.sliding_window_mask(a["lq"], a["lk"], a["window"], v["causal"])
    ),
    "padding_mask": _moved(lambda a, v: movement.padding_mask(a["lens"], a["lk"])),
}
