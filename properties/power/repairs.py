"""Repairs: one thing about the arguments of a call changed, so that it asks for less.

Each takes a call as it was made and gives one that differs in what the repair is named after, or None where the call
has no such thing. What a name means is set by the vocabulary: axes are told by the names of the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ..memory import Laid, Layout
from ..operations import Operation

_AXES = {                   # of tensors, from the first axis; R and N: rows and columns of what has no names for them
    "q": "B Hq Lq D", "k": "B Hkv Lk D", "v": "B Hkv Lk Dv", "out": "B Hq Lq Dv", "dout": "B Hq Lq Dv",
    "lse": "B Hq Lq", "mask": "B Hq Lq Lk", "k_new": "B Hkv Lq D", "v_new": "B Hkv Lq Dv", "k_cache": "B Hkv S D",
    "v_cache": "B Hkv S Dv", "lens": "B", "weight": "N"}
_HEADS = {"rope": {"x": "B H L N", "positions": "B L"}, "repeat_kv": {"x": "B H L N"}, "split_heads": {"x": "B L N"},
          "merge_heads": {"x": "B H L N"}, "layer_norm": {"bias": "N"}, "attention": {"bias": "B Hq Lq Lk"},
          "attention_weights": {"bias": "B Hq Lq Lk"}}
_ROWS = "R3 R2 R1 R0"
_PER_ROW = ("m1", "l1", "m2", "l2", "lse1", "lse2")


@dataclass(frozen=True)
class Asked:
    """One call: an operation, its arguments as the claim gave them, and the layouts of those that have one."""

    operation: Operation
    given: dict
    layouts: dict[str, Layout]

    def laid(self) -> dict:
        return {name: Laid(x, self.layouts[name]) if name in self.layouts else x for name, x in self.given.items()}

    def but(self, **changed) -> Asked:
        return replace(self, given=self.given | changed)


def _axes(asked: Asked, name: str) -> list[str]:
    x, own = asked.given[name], _HEADS.get(asked.operation.name, {})
    if name in own or (name in _AXES and not (name == "out" and "x" in asked.given)):
        labels = (own.get(name) or _AXES[name]).split()
    else:
        labels = (_ROWS if name in _PER_ROW else _ROWS + " N").split()
    return labels[len(labels) - x.ndim:]


def _size(asked: Asked, label: str) -> int | None:
    """The size of an axis in the first tensor that has it and is not broadcast along it."""
    return max((x.shape[axis] for name, x in _tensors(asked) for axis, own in enumerate(_axes(asked, name))
                if own == label), default=None)


def _tensors(asked: Asked) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, x) for name, x in asked.given.items() if isinstance(x, torch.Tensor))


def _resized(asked: Asked, sizes: dict[str, int]) -> Asked | None:
    """Every axis of that name cut, or repeated from its beginning, to a size; None where nothing changes."""
    now = {label: _size(asked, label) for label in sizes}
    sizes = {label: n for label, n in sizes.items() if now[label] not in (None, 0, n)}
    if not sizes:
        return None
    changed = {}
    for name, x in _tensors(asked):
        for axis, label in enumerate(_axes(asked, name)):
            if label in sizes and x.shape[axis] == now[label]:
                x = x.index_select(axis, torch.arange(sizes[label]) % now[label])
        changed[name] = x
    return asked.but(**changed)


def _to(**sizes: int) -> Callable:
    return lambda asked: _resized(asked, sizes)


def _rounded_up(block: int, *labels: str) -> Callable:
    def repair(asked: Asked) -> Asked | None:
        return _resized(asked, {label: -(-size // block) * block for label in labels if (size := _size(asked, label))})
    return repair


def _alike(label: str, other: str) -> Callable:
    def repair(asked: Asked) -> Asked | None:
        size = _size(asked, other)
        return _resized(asked, {label: size}) if size else None
    return repair


def _without(*names: str) -> Callable:
    """Without a keyword: at its default."""
    def repair(asked: Asked) -> Asked | None:
        found = [name for name in names if asked.given.get(name) is not None and asked.given[name] is not False
                 and name not in asked.operation.required]
        return replace(asked, given={n: x for n, x in asked.given.items() if n not in found}) if found else None
    return repair


def changed_values(how: Callable[[torch.Tensor], torch.Tensor], *names: str) -> Callable:
    """The values of all inputs in floating point, or of those named, changed."""
    def repair(asked: Asked) -> Asked | None:
        changed = {name: how(x) for name, x in _tensors(asked) if x.is_floating_point()
                   and name in (names or asked.operation.tensors) and not asked.operation.name.startswith("merge_l")}
        same = all(torch.equal(x, asked.given[name]) for name, x in changed.items())
        return None if same else asked.but(**changed)
    return repair


def _ungrouped(asked: Asked) -> Asked | None:
    heads, kv_heads = _size(asked, "Hq"), _size(asked, "Hkv")
    if not heads or not kv_heads or heads == kv_heads or heads % kv_heads:
        return None
    return asked.but(**{name: x.repeat_interleave(heads // kv_heads, 1) for name, x in _tensors(asked)
                        if "Hkv" in _axes(asked, name)})


def _set(**values) -> Callable:
    """Those of the named arguments that the call has, at these values; or at what a function makes of them."""
    def repair(asked: Asked) -> Asked | None:
        changed = {name: value(asked.given[name]) if callable(value) else value for name, value in values.items()
                   if asked.given.get(name) is not None}
        same = all(torch.equal(x, asked.given[name]) if isinstance(x, torch.Tensor) else x == asked.given[name]
                   for name, x in changed.items())
        return None if same else asked.but(**changed)
    return repair


def _shifted(asked: Asked) -> Asked | None:
    """Maximum 0 in every row of scores; of both states that are merged."""
    for names in (("x",), ("scores",), ("m1", "m2"), ("lse1", "lse2")):
        if all(name in asked.given for name in names) and asked.operation.name in (
                "softmax", "log_sum_exp", "masked_softmax", "merge", "merge_lse"):
            top = torch.stack([asked.given[name] for name in names]).amax(0)
            top = top.amax(-1, keepdim=True) if len(names) == 1 and top.shape[-1] else top
            top = torch.where(torch.isfinite(top), top, 0.0)
            return asked.but(**{name: asked.given[name] - top for name in names}) if top.any() else None
    return None


def _equal_states(asked: Asked) -> Asked | None:
    pairs = (("m1", "m2"), ("lse1", "lse2"))
    return next((asked.but(**{b: asked.given[a]}) for a, b in pairs if a in asked.given
                 and not torch.equal(asked.given[a], asked.given[b])), None)


def _mask_for_causal(asked: Asked) -> Asked | None:
    """What causal and the window hide, hidden by the mask instead."""
    causal, window = asked.given.get("causal"), asked.given.get("window")
    if not causal and window is None:
        return None
    lq, lk = _size(asked, "Lq"), _size(asked, "Lk")
    if not lq or not lk:
        return None
    place, key = torch.arange(lq)[:, None] + lk - lq, torch.arange(lk)
    keep = (key <= place) & (key > place - window if window is not None else True)
    mask = asked.given.get("mask")
    return replace(_without("causal", "window")(asked).but(mask=keep if mask is None else mask & keep),
                   layouts={name: x for name, x in asked.layouts.items() if name != "mask"})


def _finite(x: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=1.0, neginf=-1.0)


def _numbers(**values: Callable[[dict], int]) -> Callable:
    """Numbers of a call that makes a mask."""
    def repair(asked: Asked) -> Asked | None:
        if "lk" not in asked.given or not values.keys() <= asked.given.keys():
            return None
        changed = {name: value(asked.given) for name, value in values.items()}
        return None if changed.items() <= asked.given.items() else asked.but(**changed)
    return repair


REPAIRS: dict[str, Callable[[Asked], Asked | None]] = {
    "without the mask": _without("mask"),
    "without causal": _without("causal"),
    "without the window": _without("window"),
    "with a mask for causal and window": _mask_for_causal,
    "with nothing hidden": _set(keep=torch.ones_like, mask=torch.ones_like),
    "without the bias": _without("bias"),
    "with a bias of 0": _set(bias=torch.zeros_like),
    "with a weight of 1": _set(weight=torch.ones_like),
    "with the default scale": _without("scale"),
    "with a scale of 1": _set(scale=1.0),
    "with the default eps": _without("eps"),
    "with the default base": _without("base"),
    "with one split": _set(n_splits=1),
    "with p = 0.5": _set(p=0.5),
    "with seed 0": _set(seed=0),
    "with one sequence": _to(B=1),
    "with one head": _to(Hq=1, Hkv=1, H=1),
    "with one KV head": _to(Hkv=1),
    "with no grouped heads": _ungrouped,
    "with one query": _to(Lq=1),
    "with one key": _to(Lk=1),
    "with one token": _to(L=1),
    "with as many queries as keys": _alike("Lq", "Lk"),
    "with 16 queries": _to(Lq=16),
    "with 16 keys": _to(Lk=16),
    "with 16 queries and keys": _to(Lq=16, Lk=16),
    "with queries in blocks of 64": _rounded_up(64, "Lq"),
    "with keys in blocks of 64": _rounded_up(64, "Lk"),
    "with 16 channels": _to(D=16, Dv=16),
    "with channels in blocks of 64": _rounded_up(64, "D", "Dv"),
    "with values as wide as keys": _alike("Dv", "D"),
    "with one row": _to(R0=1, R1=1, R2=1, R3=1),
    "with two rows": _to(R0=2),
    "with one column": _to(N=1),
    "with 16 columns": _to(N=16),
    "with columns in blocks of 64": _rounded_up(64, "N"),
    "with small values": changed_values(lambda x: x / 64),
    "with finite inputs": changed_values(_finite),
    "with whole numbers": changed_values(torch.round),
    "with inputs between -1 and 1": changed_values(lambda x: _finite(x).clamp(-1, 1)),
    "with queries of 0": _set(q=torch.zeros_like),
    "with keys of 0": _set(k=torch.zeros_like),
    "with values of 1": _set(v=torch.ones_like),
    "with rows of 0": _set(x=torch.zeros_like, scores=torch.zeros_like),
    "with a gradient of 1": _set(dy=torch.ones_like, dout=torch.ones_like),
    "with maximum 0": _shifted,
    "with states of equal weight": _equal_states,
    "with positions from 0": _set(positions=lambda x: torch.arange(x.shape[-1]).to(x.dtype).expand(x.shape).clone()),
    "with positions below 16": _set(positions=lambda x: x % 16),
    "with empty caches": _set(lens=torch.zeros_like),
    "with equal lengths": _set(lens=lambda x: x[:1].expand(x.shape).clone()),
    "with caches of 0": _set(k_cache=torch.zeros_like, v_cache=torch.zeros_like),
    "with as many rows as columns": _numbers(lq=lambda given: given["lk"]),
    "with 16 by 16": _numbers(lq=lambda given: 16, lk=lambda given: 16),
    "with the widest window": _numbers(window=lambda given: given["lk"] + 1),
}
