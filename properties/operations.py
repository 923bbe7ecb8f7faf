"""The vocabulary: the operations a kernel file may provide, by name.

An implementation is a Python file; every public function whose name stands in `OPERATIONS` is checked against the row
of that name.  A row says which arguments are tensors of real numbers (rounded to the dtype under test), which are
states that are kept at least in float32, what shapes come back, and which dimension is which.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One row of the vocabulary.

    `signature` binds the arguments; `tensors` are rounded to the dtype under test and `states` to at least float32;
    `shapes(**arguments)` gives the expected shape of every returned tensor; `returns` names the returned tensors
    (`name+` marks one that is at least float32, `name?` a boolean one); `judged` names the quantities that have an
    exact value, and `drawn` the returned tensors which that value takes as given (what dropout's generator drew);
    `views` says that returning a view of an input is legitimate; `writes` names the arguments that are
    written in place; `dims(**arguments)` names its dimensions for `DOMAIN` and for the report.
    """

    name: str
    signature: inspect.Signature
    returns: tuple[str, ...]
    judged: tuple[str, ...]
    shapes: Callable[..., list[Shape]]
    dims: Callable[..., dict[str, int]]
    tensors: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    views: bool = False
    writes: frozenset[str] = frozenset()
    drawn: frozenset[str] = frozenset()
    summary: str = ""

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Names of the arguments without a default, in order."""
        return tuple(p.name for p in self.signature.parameters.values() if p.default is p.empty)


OPERATIONS: dict[str, Operation] = {}


def _last_dim(x, **_) -> dict[str, int]:
    return {"n": x.shape[-1]}


def _attention_dims(q, k, v=None, **_) -> dict[str, int]:
    dims = {"B": q.shape[0], "Hq": q.shape[1], "Hkv": k.shape[1], "Lq": q.shape[2], "Lk": k.shape[2], "D": q.shape[3]}
    return dims if v is None else dims | {"Dv": v.shape[3]}


def _operation(text: str, returns: str, shapes, *, dims=_last_dim, judged: str | None = None, tensors: str = "",
               states: str = "", views: bool = False, writes: str = "", drawn: str = "", summary: str = "") -> None:
    """Add the row `name(parameters)`; word lists are separated by blanks."""
    name = text[: text.index("(")]
    scope: dict = {}
    exec(f"def {text}: ...", scope)
    names = tuple(returns.split())
    OPERATIONS[name] = Operation(
        name=name, signature=inspect.signature(scope[name]), returns=names,
        judged=tuple((judged or returns.replace("+", "").replace("?", "")).split()), shapes=shapes, dims=dims,
        tensors=frozenset(tensors.split()), states=frozenset(states.split()), views=views,
        writes=frozenset(writes.split()), drawn=frozenset(drawn.split()), summary=summary)


def _same(name: str):
    return lambda **arguments: [tuple(arguments[name].shape)]


def _out_and_lse(q, v, **_) -> list[Shape]:
    return [(*q.shape[:3], v.shape[3]), tuple(q.shape[:3])]


_operation("softmax(x)", "p", _same("x"), tensors="x", summary="over the last dim; a row of -inf gives zeros")
_operation("softmax_backward(y, dy)", "dx", _same("y"), tensors="y dy", dims=lambda y, **_: {"n": y.shape[-1]},
           summary="gradient of softmax from its output")
_operation("masked_softmax(scores, keep)", "p", _same("scores"), tensors="scores",
           dims=lambda scores, **_: {"n": scores.shape[-1]}, summary="over the visible scores; hidden ones exactly 0")
_operation("log_sum_exp(x)", "lse+", lambda x: [tuple(x.shape[:-1])], tensors="x",
           summary="over the last dim; natural logarithm; -inf for an empty row")
_operation("merge(m1, l1, acc1, m2, l2, acc2)", "m+ l+ acc+",
           lambda m1, l1, acc1, **_: [tuple(m1.shape), tuple(l1.shape), tuple(acc1.shape)], judged="out lse",
           states="m1 l1 acc1 m2 l2 acc2", dims=lambda acc1, **_: {"D": acc1.shape[-1]},
           summary="two online-softmax states: running maximum, denominator, unnormalised numerator")
_operation("merge_lse(out1, lse1, out2, lse2)", "out lse+",
           lambda out1, lse1, **_: [tuple(out1.shape), tuple(lse1.shape)], tensors="out1 out2", states="lse1 lse2",
           dims=lambda out1, **_: {"D": out1.shape[-1]}, summary="two finished partial attentions")
_operation("attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None)", "out lse+", _out_and_lse,
           dims=_attention_dims, tensors="q k v bias", summary="causal is bottom-right aligned; mask True = visible")
_operation("attention_weights(q, k, causal=False, mask=None, scale=None, window=None, bias=None)", "weights",
           lambda q, k, **_: [(*q.shape[:3], k.shape[2])], dims=_attention_dims, tensors="q k bias",
           summary="the weights themselves, (B, Hq, Lq, Lk)")
_operation("attention_backward(q, k, v, out, lse, dout, causal=False, mask=None, scale=None)", "dq dk dv",
           lambda q, k, v, **_: [tuple(q.shape), tuple(k.shape), tuple(v.shape)], dims=_attention_dims,
           tensors="q k v out dout", states="lse", summary="by recomputation from lse")
_operation("split_kv(q, k, v, n_splits=4, scale=None)", "out lse+", _out_and_lse, dims=_attention_dims,
           tensors="q k v", summary="flash decoding; more splits than keys is legal")
_operation("decode(q, k_new, v_new, k_cache, v_cache, lens, scale=None)", "out",
           lambda q, v_new, **_: [(*q.shape[:3], v_new.shape[3])], judged="out k_cache v_cache",
           dims=lambda q, k_cache, **_: _attention_dims(q, k_cache), tensors="q k_new v_new k_cache v_cache",
           writes="k_cache v_cache", summary="writes T new rows into the caches, attends causally to lens[b] + T rows")
_operation("repeat_kv(x, n_rep)", "y", lambda x, n_rep: [(x.shape[0], x.shape[1] * n_rep, *x.shape[2:])], tensors="x",
           views=True, dims=lambda x, **_: {"Hkv": x.shape[1]}, summary="each head repeated in place")
_operation("split_heads(x, h)", "y", lambda x, h: [(x.shape[0], h, x.shape[1], x.shape[2] // h)], tensors="x",
           views=True, summary="(B, L, h d) -> (B, h, L, d)")
_operation("merge_heads(x)", "y", lambda x: [(x.shape[0], x.shape[2], x.shape[1] * x.shape[3])], tensors="x",
           views=True, summary="(B, h, L, d) -> (B, L, h d)")
_operation("causal_mask(lq, lk)", "keep?", lambda lq, lk: [(lq, lk)], dims=lambda lq, lk: {"Lq": lq, "Lk": lk},
           summary="True = visible: query i sees keys j <= i + lk - lq")
_operation("sliding_window_mask(lq, lk, window)", "keep?", lambda lq, lk, window: [(lq, lk)],
           dims=lambda lq, lk, **_: {"Lq": lq, "Lk": lk}, summary="the current key and the window - 1 before it")
_operation("padding_mask(lens, lk)", "keep?", lambda lens, lk: [(len(lens), 1, 1, lk)],
           dims=lambda lens, lk: {"B": len(lens), "Lk": lk}, summary="(B, 1, 1, lk): keys before lens[b] are visible")
_operation("layer_norm(x, weight, bias, eps=1e-5)", "y", _same("x"), tensors="x weight bias",
           summary="over the last dim, biased variance, eps inside the root")
_operation("layer_norm_backward(x, weight, dy, eps=1e-5)", "dx dw db",
           lambda x, weight, **_: [tuple(x.shape), tuple(weight.shape), tuple(weight.shape)], tensors="x weight dy",
           summary="its gradients; dw and db are summed over all rows")
_operation("rope(x, positions, base=10000.0)", "y", _same("x"), tensors="x", dims=lambda x, **_: {"D": x.shape[-1]},
           summary="x (B, H, L, D), pairs (x[i], x[i + D/2]); positions (L,) or (B, L)")
_operation("gelu(x)", "y", _same("x"), tensors="x", summary="x times the normal distribution function of x, exact")
_operation("dropout(x, p, seed)", "y mask?", lambda x, **_: [tuple(x.shape)] * 2, tensors="x", drawn="mask",
           summary="inverted: kept (mask True) with probability 1 - p and then divided by it")


def bind(operation: Operation, args: tuple, kwargs: dict) -> tuple[dict, dict]:
    """(all arguments with defaults, the arguments actually given) by name; TypeError when they do not fit."""
    try:
        bound = operation.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{operation.name}{operation.signature}: {error}") from None
    given = dict(bound.arguments)
    bound.apply_defaults()
    return dict(bound.arguments), given
