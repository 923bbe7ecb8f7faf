"""Which quantities of each operation are judged: `OPERATIONS[name](arguments, contract, conventions)` gives tuples
(name, value, budget, kind)."""

import numpy as np

from . import backward, blocks, forward, layer_norm, movement, special
from . import softmax as weights
from .classes import empty_kind, exactly, ordinary, rows_of_scores, spread, stored, weights_of_rows
from .merge import merge, merge_lse


def _softmax_of(name, x, S, shown, contract, conventions):
    P, budget, w = weights.softmax(S, contract)
    kind = spread(empty_kind(None, w.empty, conventions), P)
    if not ordinary(w.M, contract):
        P, budget, kind = weights_of_rows(rows_of_scores(x, shown, contract, conventions), 0.0, contract)
    return ((name, P, budget, kind),)


def _softmax(a, contract, conventions):
    x = a["x"]
    return _softmax_of("p", x, x, x != -np.inf, contract, conventions)


def _masked_softmax(a, contract, conventions):
    x, keep = a["scores"], np.asarray(a["keep"], dtype=bool)
    S = np.where(keep, x, -np.inf)
    if not ordinary(np.where(keep | (x == -np.inf), 0.0, x), contract):
        S = np.full(S.shape, np.nan)  # hidden content that adding -inf would not hide: sorted into classes below
    return _softmax_of("p", x, S, keep & (x != -np.inf), contract, conventions)


def _log_sum_exp(a, contract, conventions):
    x, kind = a["x"], None
    w = weights.weights_of(x, 0.0, contract)
    if not ordinary(w.M, contract):
        rows = rows_of_scores(x, x != -np.inf, contract, {"empty_row": "zero"})
        w, kind = weights.weights_of(rows.S, 0.0, contract), rows.lse_kind
    value, budget = weights.lse_of(w, contract)
    return (("lse", value[..., 0], budget[..., 0], kind),)


def _merge(a, contract, conventions):
    m, l, acc = ((a[f"{name}1"], a[f"{name}2"]) for name in ("m", "l", "acc"))
    O, budget, lse, lse_budget, _ = merge(m, l, acc, contract)
    kind, lse_kind = None, None
    if not (np.isfinite(budget).all() and np.isfinite(lse_budget).all()):
        kind, lse_kind = special.classify_merge(m, l, acc, budget)
    return ("out", O, budget, kind), ("lse", lse, lse_budget, lse_kind)


def _merge_lse(a, contract, conventions):
    out, lse = (a["out1"], a["out2"]), (a["lse1"], a["lse2"])
    O, budget, L, L_budget, empty = merge_lse(out, lse, contract)
    kind, lse_kind = spread(empty_kind(None, empty[..., None] if empty.any() else None, conventions), O), None
    if not (np.isfinite(budget).all() and np.isfinite(L_budget).all()):
        kind, lse_kind = special.classify_merge(lse, (1.0, 1.0), out, budget)
    return stored("out", O, budget, kind, contract), ("lse", L, L_budget, lse_kind)


OPERATIONS = {
    "softmax": _softmax,
    "softmax_backward": backward.softmax_backward,
    "masked_softmax": _masked_softmax,
    "log_sum_exp": _log_sum_exp,
    "merge": _merge,
    "merge_lse": _merge_lse,
    "attention": forward.attention,
    "attention_weights": forward.attention_weights,
    "attention_backward": backward.attention_backward,
    "split_kv": forward.split_kv,
    "decode": forward.decode,
    "layer_norm": layer_norm.layer_norm,
    "layer_norm_backward": layer_norm.layer_norm_backward,
    "multi_head_attention": blocks.multi_head_attention,
    "linear_attention": blocks.linear_attention,
    "rope": blocks.rope,
    "sinusoidal_positions": blocks.sinusoidal_positions,
    "gelu": blocks.gelu,
    "dropout": blocks.dropout,
    "repeat_kv": lambda a, c, v: exactly("y", movement.repeat_kv(a["x"], a["n_rep"])),
    "split_heads": lambda a, c, v: exactly("y", movement.split_heads(a["x"], a["h"])),
    "merge_heads": lambda a, c, v: exactly("y", movement.merge_heads(a["x"])),
    "causal_mask": lambda a, c, v: exactly("keep", movement.causal_mask(a["lq"], a["lk"], v["causal"])),
    "sliding_window_mask": lambda a, c, v: exactly(
        "keep", movement.sliding_window_mask(a["lq"], a["lk"], a["window"], v["causal"])),
    "padding_mask": lambda a, c, v: exactly("keep", movement.padding_mask(a["lens"], a["lk"])),
}
