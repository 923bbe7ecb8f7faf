"""Zeros everywhere: a softmax of zeros has passed published benchmarks."""

import torch

from impls.placebo._everything import every_operation

globals().update(every_operation(lambda shape, dtype: torch.zeros(shape, dtype=dtype)))
