"""Implementations under test: loading a kernel file, reading what it offers, saying clearly what is wrong with it."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .numerics.contracts import contract_for
from .operations import OPERATIONS, Operation

DTYPES = ("float64", "float32", "float16", "bfloat16")
CONVENTIONS = {"causal": ("bottom-right", "top-left"), "empty_row": ("zero", "nan"), "rope": ("half", "interleaved")}
ALGORITHMS = ("standard", "flash")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file: one sentence for a person, and where."""

    file: str
    message: str
    line: int | None = None
    claim: str | None = None

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.message}"


@dataclass(frozen=True)
class ExpectedFailure:
    """A known defect: where it applies, how to reproduce it, why, and a link.

    `when(arguments)` sees one call's arguments as the implementation receives them; `reproducer()` is true while the
    defect is there.  A matching example is excused and counted; all others must hold.
    """

    operation: str
    when: Callable[[dict], bool]
    reproducer: Callable[[], bool]
    reason: str
    link: str
    dtypes: tuple[str, ...] | None = None
    claims: tuple[str, ...] | None = None

    def excuses(self, operation: str, dtype: str, claim: str, arguments: dict) -> bool:
        return (operation == self.operation and (self.dtypes is None or dtype in self.dtypes)
                and (self.claims is None or any(name in claim for name in self.claims)) and bool(self.when(arguments)))


@dataclass(frozen=True)
class Subject:
    """One implementation: its operations and what it declares about itself."""

    name: str
    file: str
    operations: Mapping[str, Callable]
    digest: str
    title: str = ""
    dtypes: tuple[str, ...] = ("float32",)
    device: str = "cpu"
    array: str = "torch"
    rounding: str | dict = "fused"
    conventions: Mapping[str, str] = field(default_factory=dict)
    domain: Mapping[str, object] = field(default_factory=dict)
    expected_failures: tuple[ExpectedFailure, ...] = ()
    note: str = ""
    algorithm: str = ""
    traffic: Callable | None = None
    keywords: Mapping[str, frozenset[str] | None] = field(default_factory=dict)


INTERPRETED_SHARE = 3             # an interpreted kernel is slow: it gets a third of the examples


def share_of(subject: Subject | None, examples: int) -> int:
    """How many of the examples of a cell a subject is given."""
    return max(examples // INTERPRETED_SHARE, 1) if subject and subject.note == "interpreter" else examples


def load(path: Path, *, name: str) -> tuple[list[Subject], list[Problem]]:
    """Import a kernel file (or package) under a unique module name.

    Returns one subject, or one per entry of its `VARIANTS`, and the problems found; never raises for a bad file.
    """
    shown = _shown(path)
    try:
        module = import_file(path, name)
    except BaseException as error:                                   # a kernel file may do anything at import
        if isinstance(error, KeyboardInterrupt):
            raise
        return [], [Problem(shown, f"cannot be imported: {type(error).__name__}: {error}", _line_in(path, error))]
    return describe(vars(module), path=path, name=name)


def describe(namespace: Mapping, *, path: Path, name: str) -> tuple[list[Subject], list[Problem]]:
    """What an imported kernel file offers, as subjects, and what is wrong with it."""
    problems: list[Problem] = []
    shown, digest = _shown(path), digest_of(path)
    variants = namespace.get("VARIANTS") or {None: {}}
    subjects = [_subject(dict(namespace) | dict(extra), name if variant is None else f"{name}.{variant}", shown, digest,
                         problems) for variant, extra in variants.items()]
    unique = list({str(p): p for p in problems}.values())
    if not any(s.operations for s in subjects):
        unique.append(Problem(shown, "defines no operation; expected public functions named like "
                              "softmax(x) or attention(q, k, v, ...): the README lists them all"))
    return [s for s in subjects if s.operations], unique


def _subject(namespace: dict, name: str, shown: str, digest: str, problems: list[Problem]) -> Subject:
    operations, keywords = {}, {}
    for operation in OPERATIONS.values():
        function = namespace.get(operation.name)
        if not callable(function):
            continue
        wrong, accepted = _signature(operation, function)
        if wrong:
            line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
            problems.append(Problem(shown, f"{operation.name}: {wrong}; it is left out, with every claim on it", line))
            continue
        operations[operation.name], keywords[operation.name] = function, accepted
    dtypes = tuple(str(d).removeprefix("torch.") for d in namespace.get("DTYPES", ("float32",)))
    for bad in [d for d in dtypes if d not in DTYPES]:
        problems.append(Problem(shown, f"DTYPES names {bad!r}; known are {', '.join(DTYPES)}"))
    rounding = namespace.get("ROUNDING", "fused")
    try:
        contract_for(rounding, "float32")
    except (ValueError, TypeError) as error:
        problems.append(Problem(shown, f"ROUNDING = {rounding!r}: {error}; judged as 'fused'"))
        rounding = "fused"
    conventions = {key: values[0] for key, values in CONVENTIONS.items()}
    for key, value in namespace.get("CONVENTIONS", {}).items():
        if value in CONVENTIONS.get(key, ()):
            conventions[key] = value
        else:
            problems.append(Problem(shown, f"CONVENTIONS has {key}={value!r}; known are "
                                    + "; ".join(f"{k}: {' or '.join(v)}" for k, v in CONVENTIONS.items())))
    algorithm, traffic = namespace.get("ALGORITHM", ""), namespace.get("TRAFFIC")
    if algorithm and algorithm not in ALGORITHMS:
        problems.append(Problem(shown, f"ALGORITHM = {algorithm!r}; known are {' and '.join(ALGORITHMS)}"))
        algorithm = ""
    if traffic is not None and not callable(traffic):
        problems.append(Problem(shown, f"TRAFFIC is {traffic!r}; expected a function that returns a context manager"))
        traffic = None
    return Subject(
        name=name, file=shown, operations=operations, digest=digest, keywords=keywords, conventions=conventions,
        algorithm=algorithm, traffic=traffic,
        title=(namespace.get("__doc__") or "").strip().split("\n")[0], dtypes=tuple(d for d in dtypes if d in DTYPES),
        device=str(namespace.get("DEVICE", "cpu")), array=str(namespace.get("ARRAY", "torch")),
        rounding=rounding, domain=namespace.get("DOMAIN", {}), note=namespace.get("NOTE", ""),
        expected_failures=tuple(ExpectedFailure(**e) for e in namespace.get("EXPECTED_FAILURES", ())))


def _signature(operation: Operation, function: Callable) -> tuple[str, frozenset[str] | None]:
    """(what is wrong, the optional keywords it accepts; None for all)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return "", None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    star = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needed = operation.required
    shown = f"has the signature {inspect.signature(function)}, expected {operation.signature}"
    if not star and len(positional) < len(needed):
        return shown, None
    optional = set(operation.signature.parameters) - set(needed)
    demanded = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if [n for n in demanded[len(needed):] if n not in optional] or len(demanded) > len(needed):
        return shown, None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return "", None
    return "", frozenset(p.name for p in parameters) & frozenset(optional)


def import_file(path: Path, name: str):
    """The module of a Python file or package, imported once under a name of its own."""
    unique = f"attest_subject_{name.replace('.', '_')}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if unique in sys.modules:
        return sys.modules[unique]
    package = path / "__init__.py" if path.is_dir() else path
    if not package.is_file():
        raise FileNotFoundError(f"there is no file {package}")
    spec = importlib.util.spec_from_file_location(
        unique, package, submodule_search_locations=[str(path)] if path.is_dir() else None)
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of all Python files of a package, shortened."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
    return hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()[:16]


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _line_in(path: Path, error: BaseException) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    traceback, line = error.__traceback__, None
    while traceback:
        if Path(traceback.tb_frame.f_code.co_filename).resolve().is_relative_to(path.resolve()):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
