"""The operations that attend: attention, its weights, split-KV and decoding with a cache."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from . import softmax as weights
from . import special
from .attention import Scores, attend, default_scale, grouped, grouped_pairs, scores_of, visible
from .classes import empty_kind, spread, stored, weights_of_rows
from .rounding import LARGEST


def attention_rows(q, k, v, scale, keep, bias, contract, conventions, splits=None):
    """Attention of rows that are grouped by KV head: (O, budget, kind), (lse, budget, kind), not yet stored."""
    c = contract
    scores = scores_of(q, k, scale, c, keep=keep, bias=bias)
    found = attend(scores, v, c, splits=splits)
    usual = (scores.raw.max(initial=0.0) * max(1.0, abs(scale)) < c.score_limit
             and np.abs(found.weights.M).max(initial=0.0) < c.score_limit
             and found.numerator < 0.25 * LARGEST[c.acc]
             and (scores.S.size or np.isfinite(v).all()))
    if not usual:
        return _special_rows(q, k, v, scale, keep, bias, c, conventions, splits)
    empty = found.weights.empty
    kind = spread(empty_kind(None, empty, conventions), found.O)
    lse_kind = None if kind is None else np.where(empty[..., 0], np.int8(special.NONFINITE), np.int8(special.FIN))
    return (found.O, found.budget, kind), (found.lse, found.lse_budget, lse_kind)


def _special_scores(q, k, scale, keep, bias, contract, conventions):
    """The rows of a score matrix, sorted into classes, and the finite part of the scores with its errors."""
    clean = scores_of(special.without_special(q), special.without_special(k), scale, contract,
                      bias=None if bias is None else special.without_special(bias))
    tainted = ~np.isfinite(q).all(-1)[..., :, None] | ~np.isfinite(k).all(-1)[..., None, :]
    S, shown = clean.S, np.ones(1, bool) if keep is None else keep
    if tainted.any():
        S = np.where(tainted, (q @ k.swapaxes(-1, -2)) * scale, S)
    safe = clean.raw * max(1.0, abs(scale)) < contract.score_limit
    harmless = safe & np.isfinite(S)
    if bias is not None:
        S = np.where(np.isfinite(bias), S, S + bias)
        shown = shown & (bias != -np.inf)
    rows = special.classify_rows(
        S, safe, shown, contract.score_limit, harmless=harmless, empty_row=conventions["empty_row"]
    )
    return rows, Scores(rows.S, clean.E, clean.raw)


def _special_rows(q, k, v, scale, keep, bias, c, conventions, splits):
    rows, scores = _special_scores(q, k, scale, keep, bias, c, conventions)
    clean_v = special.without_special(v)
    found = attend(scores, clean_v, c, splits=splits)
    kind = special.classify_columns(rows, v)
    if not found.numerator < 0.25 * LARGEST[c.acc]:
        sums = np.exp(rows.S - found.weights.M) @ np.abs(clean_v)
        kind[(kind == special.FIN) & ~(sums * 1.01 < 0.25 * LARGEST[c.acc])] = special.ANY
    return (found.O, found.budget, kind), (found.lse, found.lse_budget, rows.lse_kind)


def _visible(a, conventions):
    return visible(a["q"].shape[-2], a["k"].shape[-2], causal=a.get("causal", False), window=a.get("window"),
                   mask=a.get("mask"), alignment=conventions["causal"])


def _rows(a, keep, conventions):
    """q, mask and bias regrouped by KV head, and the scale."""
    q, n_kv_heads = a["q"], a["k"].shape[1]
    shape = q.shape[:-1] + a["k"].shape[-2:-1]
    return (grouped(q, n_kv_heads), default_scale(a.get("scale"), q.shape[-1]), grouped_pairs(keep, shape, n_kv_heads),
            grouped_pairs(a.get("bias"), shape, n_kv_heads))


def _attend(a, keep, contract, conventions, splits=None):
    q, scale, keep, bias = _rows(a, keep, conventions)
    out, lse = attention_rows(q, a["k"], a["v"], scale, keep, bias, contract, conventions, splits)
    rows = a["q"].shape[:-1]
    out, lse = (tuple(None if x is None else x.reshape(shape) for x in parts)
                for parts, shape in ((out, rows + a["v"].shape[-1:]), (lse, rows)))
    return stored("out", *out, contract), ("lse", *lse)


def attention(a, contract, conventions):
    """(out, lse)."""
    return _attend(a, _visible(a, conventions), contract, conventions)


@lru_cache(maxsize=None)
def _split(contract):
    return replace(contract, lse_merge=True)


def split_kv(a, contract, conventions):
    """(out, lse); the parts are merged one after the other with exp(lse_i - lse), normalised again or not."""
    return _attend(a, None, _split(contract), conventions, max(1, a.get("n_splits", 4)))


def attention_weights(a, contract, conventions):
    """(weights,), 0 at hidden keys."""
    q, scale, keep, bias = _rows(a, _visible(a, conventions), conventions)
    k, shape = a["k"], a["q"].shape[:-1] + a["k"].shape[-2:-1]
    scores = scores_of(q, k, scale, contract, keep=keep, bias=bias)
    P, budget, w = weights.softmax(scores.S, contract, scores.E)
    kind = spread(empty_kind(None, w.empty, conventions), P)
    if not (scores.raw.max(initial=0.0) * max(1.0, abs(scale)) < contract.score_limit
            and np.abs(w.M).max(initial=0.0) < contract.score_limit):
        rows, scores = _special_scores(q, k, scale, keep, bias, contract, conventions)
        P, budget, kind = weights_of_rows(rows, scores.E, contract)
    return (("weights", P.reshape(shape), budget.reshape(shape), None if kind is None else kind.reshape(shape)),)


def decode(a, contract, conventions):
    """(out, k_cache, v_cache): the new rows stand in the caches exactly, and nothing behind them is read."""
    q, lens = a["q"], np.asarray(a["lens"], dtype=np.int64).reshape(-1)
    steps = q.shape[2]
    caches = [_written(a[f"{name}_cache"], a[f"{name}_new"], lens) for name in "kv"]
    used = int(lens.max(initial=0)) + steps
    key = np.arange(used)
    read = key < (lens[:, None] + steps)
    k, v = (np.where(read[:, None, :, None], cache[:, :, :used], 0.0) for cache in caches)
    keep = (key <= lens[:, None, None] + np.arange(steps)[:, None])[:, None]
    out, _ = _attend({"q": q, "k": k, "v": v, "scale": a.get("scale")}, keep, _split(contract), conventions, 1)
    exact = tuple((name, cache, np.zeros(cache.shape), _kept(cache))
                  for name, cache in zip(("k_cache", "v_cache"), caches))
    return (out, *exact)


def _kept(cache):
    """A NaN that stands in a cache, behind what is read, is still one afterwards."""
    lost = np.isnan(cache)
    return np.where(lost, np.int8(special.NAN), np.int8(special.FIN)) if lost.any() else None


def _written(cache, new, lens):
    cache = cache.copy()
    for b, length in enumerate(lens):
        cache[b, :, length:length + new.shape[2]] = new[b]
    return cache
