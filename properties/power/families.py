"""Which sort of mistake: kernel ridge regression on what is known of the known bugs.

A bug is described by numbers: which repairs cure its failing calls and what is seen of their results (`cures`), repairs
of one sort taken together, in which files of claims its failing claims lie, and which operations they are about. The
share of a family is regressed on them, with a Gaussian kernel; leaving a bug out has a closed form, so that how often
the right family is named is measured without a second fit (Allen 1974, The relationship between variable selection
and data augmentation and a method for prediction, Technometrics 16).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .cures import DECISIVE, IN_DTYPE, SEEN, Cures
from .known import Known

# Chosen once from a coarse grid by leave-one-out on the 284 known bugs of November 2026.
WIDTH, FLOOR, RIDGE = 60.0, 0.1, 0.2        # exp(-d^2 / WIDTH) + FLOOR is the kernel
OF_DECISIVE, OF_FILES, OF_TRIED = 3.0, 2.0, 0.5     # weights, where that of a repair is 1

SORTS = {                                   # of repairs: what matches is taken together
    "whole blocks": " in blocks of ", "a few": "^with 16 ", "one": "^with one (key|query|row|column|token)$",
    "two": "^with two ", "zeros": " of 0$", "small": "^with (inputs between|small|finite|maximum)",
    "nothing hidden": "^without (the mask|causal|the window)$|^with nothing hidden$|^with a mask for",
    "nobody writes": "^fresh memory|^wrong numbers stay", "what was before": "^called |^imported |^equal calls",
    "where it lies": "contiguous|^an input is|^a view is", "a wide dtype": "^in float",
    "heads": "^with (one head|one KV head|no grouped heads)$"}


def features(failing: Iterable[str], about: Mapping[str, float], cures: Cures) -> dict[str, float]:
    """What a bug is described by: its failing claims, the shares of them that are `about` operations, its cures."""
    failing, found = list(failing), {}
    shares = {name: cured / tried for name, (cured, tried) in cures.items() if tried}
    for name, share in shares.items():
        if name.startswith(SEEN):
            found[name] = share
        else:
            weight = OF_DECISIVE if name in DECISIVE or name in IN_DTYPE else 1.0
            found |= {name: weight * (share - 0.5), f"tried {name}": OF_TRIED * weight}
    for sort, pattern in SORTS.items():
        alike = [share for name, share in shares.items() if re.search(pattern, name)]
        if alike:
            found |= {f"most of {sort}": max(alike) - 0.5, f"mean of {sort}": sum(alike) / len(alike) - 0.5}
    for file, count in Counter(claim.split("::")[0] for claim in failing).items():
        found[file] = OF_FILES * count / len(failing)
    return found | {f"about {operation}": share for operation, share in about.items()}


@dataclass(frozen=True)
class Fit:
    """Known bugs as a regression: the names of features, the bugs' features, families, and the coefficients."""

    names: tuple[str, ...]
    points: np.ndarray              # (bugs, features)
    families: tuple[str, ...]
    shares: np.ndarray              # (bugs, families): 1 in a bug's own family
    inverse: np.ndarray             # (bugs, bugs): of the kernel matrix plus RIDGE on its diagonal

    def of(self, described: Mapping[str, float]) -> list[tuple[str, float]]:
        """Families and their shares for a new kernel, the likeliest first."""
        point = np.array([[described.get(name, 0.0) for name in self.names]])
        beyond = sum(value * value for name, value in described.items() if name not in self.names)
        return _ranked(self.families, (_kernel(point, self.points, beyond) @ self.inverse @ self.shares)[0])

    def leaving_one_out(self) -> list[list[tuple[str, float]]]:
        """The same for every known bug, as if it were not among them."""
        left_out = self.shares - self.inverse @ self.shares / np.diag(self.inverse)[:, None]
        return [_ranked(self.families, row) for row in left_out]


def fit(bugs: Sequence[Known]) -> Fit:
    """The regression on at least one known bug."""
    described = [features(bug.kills, bug.about, bug.cures) for bug in bugs]
    names = tuple(sorted({name for one in described for name in one}))
    points = np.array([[one.get(name, 0.0) for name in names] for one in described])
    families = tuple(sorted({bug.family for bug in bugs}))
    shares = np.array([[bug.family == family for family in families] for bug in bugs], dtype=float)
    return Fit(names, points, families, shares,
               np.linalg.inv(_kernel(points, points) + RIDGE * np.eye(len(points))))


def _kernel(a: np.ndarray, b: np.ndarray, beyond: float = 0.0) -> np.ndarray:
    """Of points (n, features) and (m, features); `beyond`: squared distance in features that `b` lacks."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T + beyond
    return np.exp(-np.maximum(squares, 0.0) / WIDTH) + FLOOR


def _ranked(families: Sequence[str], shares: np.ndarray) -> list[tuple[str, float]]:
    """Shares below 0, which a regression does not exclude, are none; the others add up to 1."""
    shares = np.maximum(shares, 0.0) if shares.max() > 0 else np.ones_like(shares)
    return sorted(zip(families, (shares / shares.sum()).tolist(), strict=True), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class HeldBack:
    """A known bug that was diagnosed as if it were new, and the families that the others suggest, likeliest first."""

    known: Known
    named: tuple[str, ...]

    @property
    def first(self) -> bool:
        """Whether the right family is named first."""
        return self.named[0] == self.known.family

    @property
    def among_two(self) -> bool:
        return self.known.family in self.named[:2]


def held_back(bugs: Sequence[Known]) -> list[HeldBack]:
    """Every known bug, diagnosed by all the others."""
    ranked = fit(bugs).leaving_one_out() if bugs else []
    return [HeldBack(bug, tuple(family for family, _ in families)) for bug, families in zip(bugs, ranked, strict=True)]
