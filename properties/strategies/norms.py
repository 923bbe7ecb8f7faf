"""Inputs of layer norm, its weight, bias and eps, and inputs of elementwise functions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from .rows import lengths
from .values import MODERATE, arrays, choice, reach, tensor

_EPS = (1e-5, 1e-3, 1e-6, 1.0)
_N_ROWS = (1, 2, 3, 5)
_POSITIONS = ((1, 2), (2, 1), (2, 3), (3, 2))           # of (B, L, n)
_ELEMENTS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65, 257)


def _constant(x):
    return np.broadcast_to(x[..., :1], x.shape)


def _one_apart(x):
    """A large constant, and one entry beside it."""
    x = np.broadcast_to(64.0 + np.round(x[..., :1]), x.shape).copy()
    x[..., -1] += 1.0
    return x


ROW_REGIMES = {
    "plain": lambda x: x, "integers": np.round, "large mean": lambda x: x + 1000.0,
    "large mean, tiny variance": lambda x: 64.0 + x * 2.0**-10, "one apart": _one_apart,
    "variance near eps": lambda x: x * 2.0**-9, "variance far below eps": lambda x: x * 2.0**-20,
    "large": lambda x: x * 1024.0, "constant": _constant,
}


def first_row(drawn) -> dict:
    """The first row of `norm_inputs`, and what belongs to its first entry, for a proof about one row."""
    x, weight, bias, eps = drawn
    return {"x": x[0].tolist(), "n": x.shape[-1], "w": float(weight[0]), "b": float(bias[0]), "e": eps}


def unweighted(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x with weight 1 and bias 0."""
    return x, torch.ones(x.shape[-1]).double(), torch.zeros(x.shape[-1]).double()


@st.composite
def norm_inputs(draw, *, least: int = 1, most: int = 257, regimes: tuple[str, ...] = tuple(ROW_REGIMES),
                tokens: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """(x, weight, bias, eps): x `(rows, n)`, or `(B, L, n)` of at least two tokens with `tokens`; weight, bias `(n,)`.

    |x| <= 8192; the regimes put the mean far above the standard deviation, and the variance beside or below eps.
    """
    n = draw(lengths(least=least, most=most))
    shape = draw(choice(*_POSITIONS)) if tokens else (draw(choice(*_N_ROWS)) if n <= 129 else 1,)
    regime = draw(choice(*regimes))
    x = draw(arrays((*shape, n), table=MODERATE))
    weight, bias = draw(arrays((n,), table=MODERATE)), draw(arrays((n,), table=MODERATE))
    reach(regime)
    reach(f"length {n}")
    return tensor(ROW_REGIMES[regime](x)), tensor(weight), tensor(bias), draw(choice(*_EPS))


@st.composite
def norm_gradients(draw, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """(x, weight, dy, eps): the arguments of layer norm's gradient, dy of x's shape."""
    x, weight, _, eps = draw(norm_inputs(**options))
    return x, weight, tensor(draw(arrays(tuple(x.shape), table=MODERATE))), eps


@st.composite
def elements(draw, *, far: float = 1.0, least: int = 1) -> torch.Tensor:
    """`(n,)`, |x| <= 8 `far`: lengths on and beside those of vector registers; some examples lie in the tails."""
    n = draw(choice(*(size for size in _ELEMENTS if size >= least)))
    stretch = draw(choice(1.0, 1.0, 0.125, 2.0 * far if far > 1 else 0.5))
    reach("tails" if stretch > 1 else "near 0" if stretch < 1 else "moderate")
    return tensor(draw(arrays((n,), table=MODERATE)) * stretch)


__all__ = ["ROW_REGIMES", "elements", "norm_gradients", "norm_inputs"]
