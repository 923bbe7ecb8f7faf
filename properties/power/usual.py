"""Arguments as people usually draw them: every operation at given sizes, its numbers from any source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ..operations import OPERATIONS


@dataclass(frozen=True)
class Sizes:
    """q is (batch, heads, lq, d), k (batch, kv_heads, lk, d), v (batch, kv_heads, lk, dv), dv being d if it is 0."""

    batch: int = 2
    heads: int = 4
    kv_heads: int = 4
    lq: int = 64
    lk: int = 64
    d: int = 32
    dv: int = 0


@dataclass(frozen=True)
class Source:
    """Where numbers come from: `real(*shape)` float64, `keep(*shape)` bool, `whole(least, most)` one whole number."""

    real: Callable[..., torch.Tensor]
    keep: Callable[..., torch.Tensor]
    whole: Callable[[int, int], int]


def normals(seed: int, dtype: torch.dtype) -> Source:
    """Standard normal numbers of that dtype (as float64); masks show four in five, and the first key always."""
    rng = torch.Generator().manual_seed(seed)

    def real(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype).double()

    def keep(*shape):
        visible = torch.rand(shape, generator=rng) < 0.8
        visible[..., :1] = True
        return visible

    return Source(real, keep, lambda least, most: int(torch.randint(least, most + 1, (), generator=rng)))


def usual_arguments(operation: str, sizes: Sizes, draw: Source, *, forward: Callable,
                    options: Iterable[str] = ()) -> dict:
    """All arguments of an operation by name, with those of the `options` that it has (see OPTIONS).

    `forward(q, k, v, ...) -> (out, lse)` is a right attention, whose results its gradient takes.
    """
    chosen = {name: OPTIONS[name](sizes, draw) for name in options if name in options_of(operation)}
    given = ARGUMENTS[operation](sizes, draw) | chosen
    if operation == "attention_backward":
        given["out"], given["lse"] = forward(given["q"], given["k"], given["v"], **chosen)
    return given


def options_of(operation: str) -> list[str]:
    """Which of the OPTIONS an operation has.  (The bias of a normalisation is none.)"""
    row = OPERATIONS[operation]
    return [name for name in OPTIONS if name in row.signature.parameters and name not in row.required]


OPTIONS = {
    "causal": lambda s, draw: True,
    "mask": lambda s, draw: draw.keep(s.batch, (1, s.heads)[draw.whole(0, 1)], s.lq, s.lk),
    "window": lambda s, draw: draw.whole(1, s.lk),
    "bias": lambda s, draw: draw.real(1, s.heads, s.lq, s.lk),
    "scale": lambda s, draw: draw.whole(1, 8) / 8,
    "n_splits": lambda s, draw: draw.whole(1, 8),
    "eps": lambda s, draw: draw.whole(1, 8) / 64,
    "base": lambda s, draw: 100.0 * draw.whole(1, 100),
}


def _queries(s: Sizes, draw: Source) -> torch.Tensor:
    return draw.real(s.batch, s.heads, s.lq, s.d)


def _keys(s: Sizes, draw: Source) -> torch.Tensor:
    return draw.real(s.batch, s.kv_heads, s.lk, s.d)


def _qkv(s: Sizes, draw: Source) -> dict:
    return {"q": _queries(s, draw), "k": _keys(s, draw), "v": draw.real(s.batch, s.kv_heads, s.lk, s.dv or s.d)}


def _scores(s: Sizes, draw: Source) -> torch.Tensor:
    return draw.real(s.batch, s.heads, s.lq, s.lk)


def _state(s: Sizes, draw: Source, number: int) -> dict:
    row = s.batch, s.heads, s.lq
    return {f"m{number}": draw.real(*row), f"l{number}": 1 + draw.real(*row).abs(), f"acc{number}": _queries(s, draw)}


def _finished(s: Sizes, draw: Source, number: int) -> dict:
    return {f"out{number}": _queries(s, draw), f"lse{number}": draw.real(s.batch, s.heads, s.lq)}


def _decode(s: Sizes, draw: Source) -> dict:
    new, capacity = min(s.lq, 4), max(s.lk, min(s.lq, 4))
    step = {name: draw.real(s.batch, heads, rows, width) for name, heads, rows, width in (
        ("q", s.heads, new, s.d), ("k_new", s.kv_heads, new, s.d), ("v_new", s.kv_heads, new, s.dv or s.d),
        ("k_cache", s.kv_heads, capacity, s.d), ("v_cache", s.kv_heads, capacity, s.dv or s.d))}
    return step | {"lens": torch.tensor([draw.whole(0, capacity - new) for _ in range(s.batch)])}


def _rope(s: Sizes, draw: Source) -> dict:
    """Positions from 0 on, or from where each sequence of the batch is."""
    starts = torch.tensor([[draw.whole(0, 500)] for _ in range(s.batch)])
    return {"x": draw.real(s.batch, s.heads, s.lq, s.d + s.d % 2),
            "positions": torch.arange(s.lq) + (starts if draw.whole(0, 1) else 0)}


def _whole_layer(s: Sizes, draw: Source) -> dict:
    width, kv_width = s.heads * s.d, s.kv_heads * s.d
    return {"x_q": draw.real(s.batch, s.lq, width), "x_kv": draw.real(s.batch, s.lk, width),
            "wq": draw.real(width, width) / 8, "wk": draw.real(width, kv_width) / 8,
            "wv": draw.real(width, kv_width) / 8, "wo": draw.real(width, width) / 8,
            "n_heads": s.heads, "n_kv_heads": s.kv_heads}


ARGUMENTS: dict[str, Callable[[Sizes, Source], dict]] = {
    "softmax": lambda s, draw: {"x": _scores(s, draw)},
    "softmax_backward": lambda s, draw: {"y": _scores(s, draw).softmax(-1), "dy": _scores(s, draw)},
    "masked_softmax": lambda s, draw: {"scores": _scores(s, draw), "keep": draw.keep(s.batch, 1, s.lq, s.lk)},
    "log_sum_exp": lambda s, draw: {"x": _scores(s, draw)},
    "merge": lambda s, draw: _state(s, draw, 1) | _state(s, draw, 2),
    "merge_lse": lambda s, draw: _finished(s, draw, 1) | _finished(s, draw, 2),
    "attention": _qkv,
    "attention_weights": lambda s, draw: {"q": _queries(s, draw), "k": _keys(s, draw)},
    "attention_backward": lambda s, draw: _qkv(s, draw) | {
        "dout": draw.real(s.batch, s.heads, s.lq, s.dv or s.d)},
    "split_kv": _qkv,
    "decode": _decode,
    "repeat_kv": lambda s, draw: {"x": _keys(s, draw), "n_rep": s.heads // s.kv_heads},
    "split_heads": lambda s, draw: {"x": draw.real(s.batch, s.lq, s.heads * s.d), "h": s.heads},
    "merge_heads": lambda s, draw: {"x": _queries(s, draw)},
    "causal_mask": lambda s, draw: {"lq": s.lq, "lk": s.lk},
    "sliding_window_mask": lambda s, draw: {"lq": s.lq, "lk": s.lk, "window": draw.whole(1, s.lk)},
    "padding_mask": lambda s, draw: {"lens": torch.tensor([draw.whole(1, s.lk) for _ in range(s.batch)]), "lk": s.lk},
    "multi_head_attention": _whole_layer,
    "linear_attention": lambda s, draw: {"q": _queries(s, draw)} | {
        name: draw.real(s.batch, s.heads, s.lk, s.d) for name in ("k", "v")},
    "layer_norm": lambda s, draw: {"x": draw.real(s.batch, s.lq, s.d), "weight": draw.real(s.d),
                                   "bias": draw.real(s.d)},
    "layer_norm_backward": lambda s, draw: {"x": draw.real(s.batch, s.lq, s.d), "weight": draw.real(s.d),
                                            "dy": draw.real(s.batch, s.lq, s.d)},
    "rope": _rope,
    "sinusoidal_positions": lambda s, draw: {"length": s.lq, "d": s.d},
    "gelu": lambda s, draw: {"x": _scores(s, draw)},
    "dropout": lambda s, draw: {"x": _scores(s, draw), "p": 0.25, "seed": draw.whole(0, 1000)},
}
