"""Steps of decoding with a KV cache: ragged lengths, room to spare or none, and old contents behind the lengths."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from hypothesis import strategies as st

from .attention import HEADS, Inputs
from .values import INTEGERS, MODERATE, arrays, choice, reach, tensor

_HELD = (0, 1, 2, 3, 15, 16, 7, 14, 17, 31, 32, 63, 64)      # on and beside pages of 16 rows
_SPARE = (0, 1, 3, 17)                                      # rows of the cache behind the longest sequence


@dataclass(frozen=True)
class Step:
    """Arguments of `decode`: `impl.decode(*step, **step.options)`; `lens` are handed over as a fresh int64 tensor.

    q (B, Hq, T, D), k_new (B, Hkv, T, D), v_new (B, Hkv, T, Dv), caches (B, Hkv, capacity, D or Dv).
    """

    q: torch.Tensor
    k_new: torch.Tensor
    v_new: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    lens: tuple[int, ...]
    options: dict = field(default_factory=dict)

    def __iter__(self):
        return iter((self.q, self.k_new, self.v_new, self.k_cache, self.v_cache, torch.tensor(self.lens)))

    def with_(self, **changes) -> Step:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    @property
    def n_new(self) -> int:
        """T, the new rows of every sequence."""
        return self.q.shape[2]

    @property
    def capacity(self) -> int:
        """The rows that every sequence has room for."""
        return self.k_cache.shape[2]

    def rows(self, first: int, stop: int | None = None) -> torch.Tensor:
        """Which rows of the cache lie from `first` to before `stop`, counted from each length: `(B, capacity)`."""
        row = torch.arange(self.capacity) - torch.tensor(self.lens)[:, None]
        return (row >= first) & (row < (self.capacity if stop is None else stop))

    def appended(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The two caches with the new rows at the lengths."""
        caches = self.k_cache.clone(), self.v_cache.clone()
        for cache, new in zip(caches, (self.k_new, self.v_new), strict=True):
            for b, n in enumerate(self.lens):
                cache[b, :, n:n + self.n_new] = new[b]
        return caches

    def with_behind(self, content: float) -> Step:
        """A copy with that content in every slot behind the new rows."""
        behind = self.rows(self.n_new)[:, None, :, None]
        return self.with_(k_cache=self.k_cache.masked_fill(behind, content),
                          v_cache=self.v_cache.masked_fill(behind, content))

    def alone(self, b: int) -> Step:
        """The step of one sequence."""
        return Step(*(x[b:b + 1] for x in list(self)[:5]), self.lens[b:b + 1], self.options)

    def of_new_row(self, t: int) -> Step:
        """The step of new row t alone, its predecessors counted as held."""
        q, k_new, v_new = (x[:, :, t:t + 1] for x in (self.q, self.k_new, self.v_new))
        return self.with_(q=q, k_new=k_new, v_new=v_new, lens=tuple(n + t for n in self.lens))

    def attended(self, b: int, *, causal: bool = True) -> Inputs:
        """What sequence b attends to, as inputs of attention: the rows that it held, and its new ones."""
        k, v = (cache[b:b + 1, :, :self.lens[b] + self.n_new] for cache in self.appended())
        return Inputs(self.q[b:b + 1], k, v, self.options | ({"causal": True} if causal else {}))


@st.composite
def steps(draw, *, most_new: int = 5, least_held: int = 0, batches: tuple[int, ...] = (1, 2, 3),
          spare: tuple[int, ...] = _SPARE) -> Step:
    """A step of decoding, finite; every sequence of the batch draws its own length."""
    held = choice(*(n for n in _HELD if n >= least_held))
    b, t = draw(choice(*batches)), draw(choice(*(n for n in (1, 2, 1, 3, 5) if n <= most_new)))
    lens = tuple(draw(held) for _ in range(b))
    capacity = max(lens) + t + draw(choice(*spare))
    (hq, hkv), d, dv = draw(choice(*HEADS)), draw(choice(1, 2, 3, 4, 8)), draw(choice(1, 2, 3, 5))
    whole = draw(choice(True, False))
    table = INTEGERS if whole else MODERATE
    q, k_new, v_new, k_cache, v_cache = (tensor(draw(arrays(shape, table=table))) for shape in (
        (b, hq, t, d), (b, hkv, t, d), (b, hkv, t, dv), (b, hkv, capacity, d), (b, hkv, capacity, dv)))
    scale = draw(choice(1.0, 0.25)) if whole else draw(choice(None, 0.5, 1.0, -0.25))
    for label in ("one new row" if t == 1 else "several new rows", "ragged" if len(set(lens)) > 1 else "equal lengths",
                  "cache full" if max(lens) + t == capacity else "room to spare"):
        reach(label)
    return Step(q, k_new, v_new, k_cache, v_cache, lens, {} if scale is None else {"scale": scale})


__all__ = ["Step", "steps"]
