"""Suspects: wrong implementations and placebos, each beside a right implementation of everything else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..operations import OPERATIONS
from ..subjects import Problem, Subject, describe, import_file, load
from .reading import PLACEBO

_FIELD = re.compile(r"^(Shipped|Notes|Family|Dtypes): +(.+?)\.?$", re.MULTILINE)


@dataclass(frozen=True)
class Suspect:
    """One implementation under suspicion: `subject` answers every operation, its own are `replaced`.

    `family` says what sort of mistake it is, `source` where it shipped or which note suggests it.
    """

    subject: Subject
    replaced: frozenset[str]
    title: str
    family: str
    source: str
    line: int | None

    @property
    def name(self) -> str:
        return self.subject.name


def wrong_in(folder: Path, base: Subject) -> tuple[list[Suspect], list[Problem]]:
    """The suspects of a folder of Python files, and what is wrong with the files.

    A file (or folder of files) named like an operation holds implementations of it: each of its public functions is one
    suspect, `operation.function`.  Any other file is read as a kernel file, whose variants are one suspect each.  A
    docstring is a sentence that names the bug, then lines `Shipped: ...` or `Notes: ...`, `Family: ...`, and
    `Dtypes: ...` where it shows in some only.
    """
    found, problems = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(("_", ".")) or not (path.suffix == ".py" or path.is_dir()):
            continue
        if path.stem not in OPERATIONS:
            parts = [_variants(path, base)]
        else:
            files = sorted(path.glob("[!_]*.py")) if path.is_dir() else [path]
            parts = [_functions(file, path.stem, base) for file in files]
        for suspects, wrong in parts:
            found += suspects
            problems += wrong
    return found, problems


def placebos_in(folder: Path, base: Subject) -> tuple[list[Suspect], list[Problem]]:
    """The suspects of a folder of kernel files that compute nothing: one per file and operation."""
    found, problems = [], []
    for path in sorted(folder.glob("[!_]*.py")):
        subjects, wrong = load(path, name=f"{PLACEBO}.{path.stem}")
        problems += wrong
        found += [_suspect(replace(s, name=f"{s.name}.{name}"), {name: function}, base, family=PLACEBO, title=s.title)
                  for s in subjects for name, function in s.operations.items()]
    return found, problems


def _functions(path: Path, operation: str, base: Subject) -> tuple[list[Suspect], list[Problem]]:
    try:
        namespace = vars(import_file(path, f"{operation}_{path.stem}"))
    except Exception as error:
        return [], [Problem(str(path), f"cannot be imported: {type(error).__name__}: {error}")]
    own = {name: f for name, f in namespace.items()
           if inspect.isfunction(f) and not name.startswith("_") and f.__module__ == namespace["__name__"]}
    declared = {name: value for name, value in namespace.items() if name.isupper() or name == "__doc__"}
    variants = {name: {operation: f} | _dtypes(f) for name, f in own.items()}
    subjects, problems = describe(declared | {"VARIANTS": variants}, path=path, name=operation)
    return [_suspect(subject, subject.operations, base) for subject in subjects], problems


def _variants(path: Path, base: Subject) -> tuple[list[Suspect], list[Problem]]:
    subjects, problems = load(path, name=path.stem)
    return [_suspect(subject, subject.operations, base) for subject in subjects], problems


def _stated(function: Callable) -> dict[str, str]:
    """The lines `Family: ...` and the like of a docstring."""
    return dict(_FIELD.findall(inspect.getdoc(function) or ""))


def _dtypes(function: Callable) -> dict[str, tuple[str, ...]]:
    named = _stated(function).get("Dtypes")
    return {"DTYPES": tuple(re.findall(r"\w+", named))} if named else {}


def _suspect(subject: Subject, own: dict[str, Callable], base: Subject, *, family="", title="") -> Suspect:
    function = next(iter(own.values()))
    stated, text = _stated(function), inspect.getdoc(function) or ""
    code = getattr(inspect.unwrap(function), "__code__", None)
    others = {name: f for name, f in base.operations.items() if name not in own}
    keywords = {name: base.keywords.get(name) for name in others} | {name: subject.keywords[name] for name in own}
    first = " ".join(text.split("\n\n")[0].split())
    return Suspect(
        subject=replace(subject, operations=others | own, keywords=keywords), replaced=frozenset(own),
        title=title or first or subject.title, family=family or stated.get("Family", ""),
        source=stated.get("Shipped") or stated.get("Notes", ""), line=code and code.co_firstlineno)
