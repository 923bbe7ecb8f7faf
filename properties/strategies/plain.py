"""Inputs of which only the shape matters: for what is counted, not computed."""

from __future__ import annotations

import torch

from .attention import Inputs


def filled(*shape: int) -> torch.Tensor:
    """A float64 tensor of that shape, of small dyadic numbers that differ from their neighbours."""
    return (torch.arange(torch.Size(shape).numel()) % 7 - 3).double().reshape(shape) / 4


def plain_inputs(*, batch: int = 1, heads: tuple[int, int] = (1, 1), lq: int, lk: int, d: int, dv: int) -> Inputs:
    """Inputs of attention of these sizes, `heads` being (Hq, Hkv), without options."""
    hq, hkv = heads
    return Inputs(filled(batch, hq, lq, d), filled(batch, hkv, lk, d), filled(batch, hkv, lk, dv))
