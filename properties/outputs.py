"""What a claim gets back from a call that returns several tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .operations import Operation
from .results import ClaimError, Result
from .trial import Unsupported


@dataclass(frozen=True)
class Outputs:
    """The results of a call that returns several: by attribute (`.out`, `.lse`), or unpacked in order."""

    results: Mapping[str, Result]

    def __getattr__(self, name: str) -> Result:
        try:
            result = self.results[name]
        except KeyError:
            raise ClaimError(f"this call returns {', '.join(self.results)}, not '{name}'") from None
        if result is None:
            raise Unsupported(f"returns no {name}")
        return result

    def __iter__(self):
        return (getattr(self, name) for name in self.results)


@dataclass(frozen=True)
class State:
    """An online-softmax state as `merge` returned it: unpacks to (m, l, acc) for the next merge; `.out`, `.lse` are
    the Results by which states are compared (acc / l and m + log l).  Over the reals it is the state (lse, 1, out)."""

    m: torch.Tensor | Result
    l: torch.Tensor                                                                            # noqa: E741
    acc: torch.Tensor | Result
    out: Result
    lse: Result

    def __iter__(self):
        return iter((self.m, self.l, self.acc))


def returned_by(operation: Operation, results: dict):
    """The only result of a call, or all of them by name."""
    return next(iter(results.values())) if len(results) == 1 else Outputs(results)
