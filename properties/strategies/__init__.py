"""Hypothesis strategies for the inputs of attention; see the modules for what each draws and why."""

from .attention import HEAD_DIMS, HEADS, Inputs, attention_inputs
from .rows import (integer_rows, keeps, lengths, masked_rows, permutations_of, rows, rows_and_permutation, shifts)
from .values import INTEGERS, MODERATE, TABLE, arrays, reach, tensor

__all__ = ["HEADS", "HEAD_DIMS", "INTEGERS", "Inputs", "MODERATE", "TABLE", "arrays", "attention_inputs",
           "integer_rows", "keeps", "lengths", "masked_rows", "permutations_of", "reach", "rows",
           "rows_and_permutation", "shifts", "tensor"]
