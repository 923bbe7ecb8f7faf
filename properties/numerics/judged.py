"""Which quantities of each operation are judged: `OPERATIONS[name](arguments, contract, conventions)` gives tuples
(name, value, budget, kind)."""

import numpy as np

from . import movement, special
from . import softmax as weights
from .attention import Scores, attend, default_scale, grouped, grouped_pairs, scores_of, visible
from .merge import merge, merge_lse
from .rounding import LARGEST


def _exactly(name, value):
    value = np.asarray(value, dtype=np.float64)
    return ((name, value, np.zeros(value.shape), None),)


def _empty_kind(kind, empty, convention):
    """The class of empty rows: 0 by distance, unless the convention says NaN."""
    if empty is None or convention["empty_row"] == "zero":
        return kind
    return np.where(empty, np.int8(special.NAN), np.int8(special.FIN) if kind is None else kind).astype(np.int8)


# ---------------------------------------------------------------------------------------------------- softmax


def _score_rows(x, shown, contract, conventions):
    """Rows of scores that were given as they are, sorted into classes."""
    limit = contract.score_limit if contract.scores is None else 0.25 * LARGEST[contract.acc]
    safe = ~(np.isfinite(x) & (np.abs(x) >= limit)) | (x <= -limit)
    return special.classify_rows(x, safe, shown, limit, empty_row=conventions["empty_row"])


def _ordinary(M, contract):
    """No row maximum is NaN, +inf or near overflow (0 for an empty row)."""
    return np.abs(M).max(initial=0.0) < 0.25 * LARGEST[contract.acc]


def _weights(name, S, E, contract, conventions, rows_if_special):
    P, budget, w = weights.softmax(S, contract, E)
    if _ordinary(w.M, contract) and budget.max(initial=0.0) < np.inf:
        return ((name, P, budget, _spread(_empty_kind(None, w.empty, conventions), P)),)
    rows = rows_if_special()
    P, budget, w = weights.softmax(rows.S, contract, E)
    kind = np.broadcast_to(rows.kind[..., None], P.shape).copy()
    kind[~rows.shown & (kind == special.NAN) & ~rows.empty[..., None]] = special.ZERO_OR_NAN
    return ((name, P, budget, kind),)


def _spread(kind, like):
    return None if kind is None else np.broadcast_to(kind, like.shape)


def _softmax(a, contract, conventions):
    x = a["x"]
    return _weights("weights", x, 0.0, contract, conventions,
                    lambda: _score_rows(x, x != -np.inf, contract, conventions))


def _masked_softmax(a, contract, conventions):
    x = a["scores"]
    keep = np.ones(1, bool) if a.get("keep") is None else np.asarray(a["keep"], dtype=bool)
    S = np.where(keep, x, -np.inf)
    if not np.isfinite(np.where(keep, 0.0, x)).all():
        S = S * np.nan  # hidden content that is not finite: judged by class
    return _weights("weights", S, 0.0, contract, conventions,
                    lambda: _score_rows(x, keep & (x != -np.inf), contract, conventions))


def _log_sum_exp(a, contract, conventions):
    x = a["x"]
    w = weights.weights_of(x, 0.0, contract)
    if _ordinary(w.M, contract):
        value, budget = weights.lse_of(w, contract)
        return (("lse", value[..., 0], budget[..., 0], None),)
    rows = _score_rows(x, x != -np.inf, contract, {"empty_row": "zero"})
    value, budget = weights.lse_of(weights.weights_of(rows.S, 0.0, contract), contract)
    return (("lse", value[..., 0], budget[..., 0], rows.lse_kind),)


# -------------------------------------------------------------------------------------------------- attention


def _stored(name, value, budget, kind, contract):
    """A result after it has been stored; elements that may overflow the format are free."""
    budget = weights.stored(value, budget, contract)
    limit = LARGEST[contract.out]
    if not (np.abs(value) + budget).max(initial=0.0) < limit:
        kind = np.zeros(value.shape, np.int8) if kind is None else kind.copy()
        kind[(kind == special.FIN) & ~(np.abs(value) + budget < limit)] = special.ANY
    return name, value, budget, kind


def attention_forward(q, k, v, scale, keep, bias, contract, conventions, merges=None):
    """(O, budget, kind), (lse, budget, kind) in the accumulator, and what `attend` found; rows regrouped by KV head."""
    c = contract
    scores = scores_of(q, k, scale, c, keep=keep, bias=bias)
    found = attend(scores, v, c, merges=merges)
    limit = c.score_limit
    usual = (scores.raw.max(initial=0.0) * max(1.0, abs(scale)) < limit
             and np.abs(found.weights.M).max(initial=0.0) < limit
             and found.numerator < 0.25 * LARGEST[c.acc]
             and (v.size == 0 or scores.S.size or np.isfinite(v).all()))
    if usual:
        empty = found.weights.empty
        kind = _empty_kind(None, empty, conventions)
        lse_kind = None
        if kind is not None:
            lse_kind = np.where(empty[..., 0], np.int8(special.NONFINITE), np.int8(special.FIN))
        return (found.O, found.budget, _spread(kind, found.O)), (found.lse, found.lse_budget, lse_kind), found
    return _special_attention(q, k, v, scale, keep, bias, c, conventions, merges)


def _special_attention(q, k, v, scale, keep, bias, c, conventions, merges):
    clean_q, clean_k = special.without_special(q), special.without_special(k)
    clean_bias = None if bias is None else special.without_special(bias)
    clean = scores_of(clean_q, clean_k, scale, c, bias=clean_bias)
    tainted = ~np.isfinite(q).all(-1)[..., :, None] | ~np.isfinite(k).all(-1)[..., None, :]
    S, shown = clean.S, np.ones(1, bool) if keep is None else keep
    if tainted.any():
        S = np.where(tainted, (q @ k.swapaxes(-1, -2)) * scale + (0.0 if bias is None else clean_bias), S)
    if bias is not None:
        S = np.where(np.isfinite(bias), S, S + bias)
        shown = shown & (bias != -np.inf)
    safe = clean.raw * max(1.0, abs(scale)) < c.score_limit
    rows = special.classify_rows(S, safe, shown, c.score_limit, empty_row=conventions["empty_row"])
    found = attend(Scores(rows.S, clean.E, clean.raw), special.without_special(v), c, merges=merges)
    kind = special.classify_columns(rows, v)
    if not found.numerator < 0.25 * LARGEST[c.acc]:
        sums = np.exp(rows.S - found.weights.M) @ np.abs(special.without_special(v))
        kind[(kind == special.FIN) & ~(sums * 1.01 < 0.25 * LARGEST[c.acc])] = special.ANY
    return (found.O, found.budget, kind), (found.lse, found.lse_budget, rows.lse_kind), found


def _attention(a, contract, conventions, merges=None):
    q, k, v = a["q"], a["k"], a["v"]
    n_kv_heads = k.shape[1]
    shape = q.shape[:-1] + k.shape[-2:-1]
    keep = visible(q.shape[-2], k.shape[-2], causal=a.get("causal", False), window=a.get("window"), mask=a.get("mask"),
                   alignment=conventions["causal"])
    (O, budget, kind), (lse, lse_budget, lse_kind), _ = attention_forward(
        grouped(q, n_kv_heads), k, v, default_scale(a.get("scale"), q.shape[-1]), grouped_pairs(keep, shape, n_kv_heads),
        grouped_pairs(a.get("bias"), shape, n_kv_heads), contract, conventions, merges)
    out_shape = q.shape[:-1] + v.shape[-1:]
    kind = None if kind is None else kind.reshape(out_shape)
    lse_kind = None if lse_kind is None else lse_kind.reshape(q.shape[:-1])
    return (_stored("out", O.reshape(out_shape), budget.reshape(out_shape), kind, contract),
            ("lse", lse.reshape(q.shape[:-1]), lse_budget.reshape(q.shape[:-1]), lse_kind))


# ------------------------------------------------------------------------------------------------------ merge


def _merged(parts, contract, conventions, *, store):
    O, budget, lse, lse_budget, empty = parts
    empty = empty if empty.any() else None
    kind = _empty_kind(None, None if empty is None else empty[..., None], conventions)
    out = ("out", O, budget, _spread(kind, O))
    return (_stored(*out, contract) if store else out, ("lse", lse, lse_budget, None))


def _merge(a, contract, conventions):
    m, l, acc = ((a[f"{name}1"], a[f"{name}2"]) for name in ("m", "l", "acc"))
    return _merged(merge(m, l, acc, contract), contract, conventions, store=False)


def _merge_lse(a, contract, conventions):
    parts = merge_lse((a["out1"], a["out2"]), (a["lse1"], a["lse2"]), contract)
    return _merged(parts, contract, conventions, store=True)


OPERATIONS = {
    "softmax": _softmax,
    "masked_softmax": _masked_softmax,
    "log_sum_exp": _log_sum_exp,
    "attention": _attention,
    "merge": _merge,
    "merge_lse": _merge_lse,
    "repeat_kv": lambda a, c, v: _exactly("out", movement.repeat_kv(a["x"], a["n_rep"])),
    "split_heads": lambda a, c, v: _exactly("out", movement.split_heads(a["x"], a["h"])),
    "merge_heads": lambda a, c, v: _exactly("out", movement.merge_heads(a["x"])),
    "causal_mask": lambda a, c, v: _exactly("mask", movement.causal_mask(a["lq"], a["lk"], v["causal"])),
    "sliding_window_mask": lambda a, c, v: _exactly(
        "mask", movement.sliding_window_mask(a["lq"], a["lk"], a["window"], v["causal"])),
    "padding_mask": lambda a, c, v: _exactly("mask", movement.padding_mask(a["lens"], a["lk"])),
}
