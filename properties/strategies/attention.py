"""Inputs of attention: queries, keys, values, masks and scales, with shapes and magnitudes that find bugs.

Shapes come from two pools, all dims different (axis mix-ups) and forced coincidences (Lq = Lk = D, Dv = D, B = H),
since some bugs are legal only there.  Half of the examples are small integers with a scale that is a power of 4: then
the scores are provably exact in every dtype and the budget of a score is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from hypothesis import strategies as st

from .rows import keeps
from .values import INTEGERS, MODERATE, TABLE, arrays, choice, reach, tensor

LENGTHS = (1, 2, 3, 1, 2, 3, 7, 8, 15, 16, 17, 33, 31, 32, 63, 64, 65, 127, 129, 257)
HEAD_DIMS = (1, 2, 3, 4, 8, 2, 4, 16, 5, 64, 80, 96)
HEADS = ((1, 1), (2, 1), (2, 2), (3, 1), (4, 2), (6, 2), (3, 3))
SCALES = (1.0, 0.25, None, 0.0625, 0.5, 2.0, 0.0, -0.25)
MOST_WORK = 1 << 16                # B Hq Lq Lk D of one example, at most


@dataclass(frozen=True)
class Inputs:
    """Arguments of `attention`: `q (B, Hq, Lq, D)`, `k (B, Hkv, Lk, D)`, `v (B, Hkv, Lk, Dv)` and its options.

    `impl.attention(*inputs, **inputs.options)`; `inputs.with_(k=...)` is a copy with some fields replaced.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    options: dict = field(default_factory=dict)

    def __iter__(self):
        return iter((self.q, self.k, self.v))

    def with_(self, **changes) -> Inputs:
        """A copy with q, k, v or some options replaced."""
        tensors = {name: changes.pop(name) for name in ("q", "k", "v") if name in changes}
        return replace(self, **tensors, options=self.options | changes)

    @property
    def scale(self) -> float:
        """The scale in force: the option, or D ** -0.5."""
        scale = self.options.get("scale")
        return self.q.shape[-1] ** -0.5 if scale is None else scale

    @property
    def groups(self) -> int:
        """Query heads per key-value head."""
        return self.q.shape[1] // self.k.shape[1]

    def values_of_heads(self) -> torch.Tensor:
        """The values that each query head reads, `(B, Hq, Lk, Dv)`."""
        return self.v.repeat_interleave(self.groups, dim=1)

    def scores(self) -> torch.Tensor:
        """The scaled scores `(B, Hq, Lq, Lk)` in float64, before any mask."""
        k = self.k.repeat_interleave(self.groups, dim=1)
        return self.scale * (self.q @ k.mT)

    def visible(self) -> torch.Tensor:
        """Which key each query sees, `(B, Hq, Lq, Lk)`, all options combined."""
        lq, lk = self.q.shape[2], self.k.shape[2]
        row, column = torch.arange(lq)[:, None] + lk - lq, torch.arange(lk)
        keep = torch.ones(*self.q.shape[:3], lk, dtype=torch.bool)
        window = self.options.get("window")
        if self.options.get("causal") or window is not None:
            keep = keep & (column <= row)
        if window is not None:
            keep = keep & (column > row - window)
        if self.options.get("mask") is not None:
            keep = keep & self.options["mask"]
        return keep

    def seen_scores(self) -> torch.Tensor:
        """The scaled scores, -inf where hidden."""
        return self.scores().masked_fill(~self.visible(), -torch.inf)

    def weights(self) -> torch.Tensor:
        """The softmax of the seen scores, `(B, Hq, Lq, Lk)` in float64; 0 for a query that sees no key."""
        return torch.softmax(self.seen_scores(), -1).nan_to_num(0.0)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention returns, `(out, lse)`, in float64."""
        return self.weights() @ self.values_of_heads(), torch.logsumexp(self.seen_scores(), -1)


def _plain(q, k, v):
    return q, k, v


def _large_scores(q, k, v):
    return q * 8, k * 8, v


def _dominant_key(q, k, v):
    k = k.copy()
    if k.shape[2]:
        k[:, :, -1] = np.sign(k[:, :, -1]) * 8 + (k[:, :, -1] == 0) * 8
    return q, k, v


def _rising_keys(q, k, v):
    """|q| and keys that grow along the sequence: every online rescaling is taken."""
    return np.abs(q), np.abs(k) * (1 + np.arange(k.shape[2]) // 8)[:, None], v


def _falling_keys(q, k, v):
    return np.abs(q), np.abs(k) * (1 + np.arange(k.shape[2])[::-1] // 8)[:, None], v


def _equal_keys(q, k, v):
    return q, np.broadcast_to(k[:, :, :1], k.shape), v


def _low_scores(q, k, v):
    """All scores far below 0."""
    return np.abs(q) + 4, -np.abs(k) - 4, v


def _different_heads(q, k, v):
    return q * 2.0 ** np.arange(q.shape[1])[:, None, None], k, v * 2.0 ** np.arange(v.shape[1])[:, None, None]


def _values_with_mean(q, k, v):
    return q, k, v + 100


REGIMES = {
    "plain": _plain, "rising keys": _rising_keys, "large scores": _large_scores, "low scores": _low_scores,
    "falling keys": _falling_keys, "dominant key": _dominant_key, "ties": _equal_keys,
    "heads of different size": _different_heads, "values with a mean": _values_with_mean,
}


@st.composite
def attention_inputs(draw, *, causal: bool | None = False, masks: bool = False, windows: bool = False,
                     empty_rows: bool = True, scales: tuple = SCALES, heads: tuple = HEADS, least_keys: int = 1,
                     least_queries: int = 1, same_lengths: bool = False, least_dim: int = 1,
                     integers: bool | None = None, regimes: tuple[str, ...] = tuple(REGIMES),
                     most: int = 257) -> Inputs:
    """Inputs of attention, finite.

    `causal=None` draws it; `masks` and `windows` add a boolean mask (broadcast shapes too) and a window in part of the
    examples; with `empty_rows=False` the mask leaves every query the first key; `heads` are pairs (Hq, Hkv);
    `integers=True` forces exact scores.
    """
    lk = draw(choice(*(n for n in LENGTHS if least_keys <= n <= most)))
    coincide = same_lengths or draw(choice(False, False, True))
    lq = lk if coincide else draw(choice(*(n for n in LENGTHS if least_queries <= n <= most)))
    d = draw(choice(*(n for n in HEAD_DIMS if n >= least_dim)))
    dv = d if coincide else draw(choice(1, 2, 3, 4, d))
    hq, hkv = draw(choice(*heads))
    b = draw(choice(1, 2, 3))
    b, lq, d, dv = _within_reason(b, hq, lq, lk, d, dv, fixed=same_lengths, least_dim=least_dim)
    whole = draw(choice(False, True)) if integers is None else integers
    regime = draw(choice(*regimes))
    table = INTEGERS if whole else TABLE if regime == "plain" else MODERATE
    q, k, v = draw(arrays((b, hq, lq, d), table=table)), draw(arrays((b, hkv, lk, d), table=table)), draw(
        arrays((b, hkv, lk, dv), table=INTEGERS if whole else MODERATE))
    q, k, v = REGIMES[regime](q, k, v)
    options: dict = {}
    powers_of_4 = [s for s in scales if s in (1.0, 0.25, 0.0625)]
    scale = draw(choice(*(powers_of_4 if whole and powers_of_4 else scales)))
    if scale is not None:
        options["scale"] = scale
    if causal or (causal is None and draw(choice(False, True))):
        options["causal"] = True
    if windows and draw(choice(False, True)):
        options["window"] = draw(choice(1, 2, 3, 8, 17))
    if masks and draw(choice(True, True, False)):
        shape = draw(choice((1, 1, lq, lk), (b, 1, 1, lk), (b, hq, lq, lk), (b, 1, lq, lk)))
        options["mask"] = draw(keeps(shape, empty_rows=empty_rows))
    inputs = Inputs(tensor(q), tensor(k), tensor(v), options)
    for label in (regime, f"length {lk}", f"head dim {d}", "exact scores" if whole else "rounded scores",
                  "GQA" if hq > hkv > 1 else "MQA" if hq > hkv else "MHA", "Lq = Lk" if lq == lk else "Lq != Lk"):
        reach(label)
    return inputs


def _within_reason(b, hq, lq, lk, d, dv, *, fixed, least_dim):
    """Shrink the batch, then the head dim, then the queries, until the example is small enough to be quick."""
    work = lambda: b * hq * lq * lk * (d + dv)                                                  # noqa: E731
    if work() > MOST_WORK:
        b = 1
    while work() > MOST_WORK and d > max(4, least_dim):
        d, dv = max(d // 4, 4, least_dim), min(dv, 4)
    while work() > MOST_WORK and lq > 3 and not fixed:
        lq = lq // 2
    return b, lq, d, dv
