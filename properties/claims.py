"""Claims: Hypothesis tests that cite what they answer and say what their failure means.

    @claim(rows="001-119 001-097", formula=r"...", if_fails="the row maximum is not subtracted")
    @given(x=rows(), c=shifts())
    def shift_invariance(impl, x, c):
        '''Adding one constant to every score of a row leaves its softmax unchanged.'''
        agree(impl.softmax(x + c), impl.softmax(x))

A claim with an `impl` argument is judged on every implementation and, unless it is about floating point, over the
reals (the *exact* column).  One without is judged once, in the column *torch*, and once per dtype if it has a `dtype`
argument.  Nothing else needs an edit: a claim is collected where it stands.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .operations import OPERATIONS

_KIND_BY_RELATION = {"rejects": "must reject", "costs": "cost", "exactly": "exact law"}


@dataclass(frozen=True)
class Proof:
    """A SymPy proof of a claim: `build()` returns an equation, or several; `tie` binds its symbols to a drawn example.

    See `properties.proof`.  `untied` is the stated reason why no tie is possible.
    """

    build: Callable
    tie: Callable | None = None
    untied: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Claim:
    """One executable claim.  Made by `claim`, `refuted` or `statistical`; see those for the meaning of the fields."""

    name: str
    file: str
    line: int
    test: Callable                       # the function under @given, or a plain function
    statement: str
    formula: str
    rows: tuple[str, ...]
    if_fails: str
    kind: str
    over: str
    operations: tuple[str, ...]
    source: str
    needs: Callable | None = None
    corrects: tuple[str, ...] = ()
    dtypes: tuple[str, ...] | None = None
    kills_nothing: str = ""
    problem: str = ""
    _proofs: list[Proof] = field(default_factory=list, repr=False)

    @property
    def title(self) -> str:
        """The first sentence of the docstring."""
        return " ".join(self.statement.split("\n\n")[0].split())

    @property
    def body(self) -> Callable:
        """The plain function that states the claim."""
        return self.test.hypothesis.inner_test if hasattr(self.test, "hypothesis") else self.test

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of all arguments of the body."""
        return tuple(inspect.signature(self.body).parameters)

    @property
    def takes_implementation(self) -> bool:
        return "impl" in self.arguments

    @property
    def proof(self):
        """Decorator: attach a SymPy proof, `@name.proof` or `@name.proof(tie=..., untied=...)`."""
        return self._attach

    def _attach(self, build: Callable | None = None, *, tie: Callable | None = None, untied: str = ""):
        if build is None:
            return lambda function: self._attach(function, tie=tie, untied=untied)
        self._proofs[:] = [Proof(build, tie, untied, _source(build))]
        return build

    @property
    def proved_by(self) -> Proof | None:
        return self._proofs[0] if self._proofs else None

    @property
    def digest(self) -> str:
        """SHA-256 of the file it stands in, shortened: an edit there makes older checks stale."""
        return hashlib.sha256(Path(self.file).read_bytes()).hexdigest()[:16]


_defined: dict[tuple[str, str], int] = {}        # (file, name) -> line, to notice a name that is used twice


def claim(*, rows: str, formula: str = "", if_fails: str = "", needs: Callable | None = None, over: str = "reals",
          corrects: str = "", dtypes: tuple[str, ...] | None = None, kills_nothing: str = "",
          kind: str = "") -> Callable:
    """A statement that holds.

    `rows`: the rows of the ledger that it answers, blank-separated; `formula`: LaTeX; `if_fails`: what is likely wrong
    with an implementation that breaks it; `needs`: a named predicate on the drawn arguments (the law holds where it is
    true, and a counterexample is found where it is false); `over="floats"`: it is about a dtype, not about the reals;
    `corrects`: names of the refuted claims whose truth this is (`name`, or `file::name`); `dtypes`: only these;
    `kills_nothing`: why no wrong implementation that is known breaks it.
    """
    if over not in ("reals", "floats"):
        raise ValueError(f"over={over!r}: a claim is over 'reals' or over 'floats'")

    def decorate(test: Callable) -> Claim:
        body = test.hypothesis.inner_test if hasattr(test, "hypothesis") else test
        file, line, name = _shown(body.__code__.co_filename), body.__code__.co_firstlineno, body.__name__
        names = _names(body.__code__)
        by_relation = next((k for relation, k in _KIND_BY_RELATION.items() if relation in names), "law")
        found = kind or ("condition" if needs else "float law" if over == "floats" else by_relation)
        earlier = _defined.setdefault((file, name), line)
        problem = "" if earlier == line else f"the claim '{name}' is defined twice, at lines {earlier} and {line}: " \
                                             "rename one (neither is run)"
        if not inspect.getdoc(body):
            problem = f"the claim '{name}' has no docstring; it is the sentence that the report shows"
        return Claim(
            name=name, file=file, line=line, test=test, statement=inspect.getdoc(body) or "", formula=formula,
            rows=tuple(rows.split()), if_fails=if_fails, kind=found, over=over, source=_source(body), needs=needs,
            operations=tuple(o for o in OPERATIONS if o in names), corrects=tuple(corrects.split()), dtypes=dtypes,
            kills_nothing=kills_nothing, problem=problem)

    return decorate


def refuted(*, rows: str, formula: str = "", over: str = "reals", dtypes: tuple[str, ...] | None = None) -> Callable:
    """A statement of the notes that is false: it passes when a counterexample *is* found.

    Over the reals it is looked for in the *exact* column (or *torch* without an implementation), over floats per
    dtype; derandomized, with ten times the examples, and then with the pinned `@example`s.
    """
    return claim(rows=rows, formula=formula, over=over, dtypes=dtypes, kind="refuted")


def statistical(*, rows: str, formula: str = "", if_fails: str = "", corrects: str = "",
                kills_nothing: str = "") -> Callable:
    """A statement about a distribution: exact designs, or `plausible(p)` at a false-alarm probability of 1e-13.

    Run derandomized; seeds are hashed from drawn parameters (`seed_from`), never drawn.
    """
    return claim(rows=rows, formula=formula, if_fails=if_fails, corrects=corrects, kills_nothing=kills_nothing,
                 kind="statistical")


def _names(code) -> set[str]:
    """All global and attribute names that a function's code uses, nested functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            names |= _names(constant)
    return names


def _source(function: Callable) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except OSError:
        return ""


def _shown(file: str) -> str:
    try:
        return str(Path(file).resolve().relative_to(Path.cwd()))
    except ValueError:
        return file
