"""Copies of triton_kernels with one thing wrong in one kernel, found and planted through the syntax tree.

The text stays as it is elsewhere, line numbers included, so that an error message points at the line to look at.
"""

import ast
import copy
import importlib.util
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "impls" / "triton_kernels"


@dataclass(frozen=True)
class Mutant:
    """One or several expressions of one kernel become others: `edits` holds pairs of a node and its new text."""

    file: str
    kernel: str
    line: int
    change: str
    edits: tuple[tuple[ast.expr, str], ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.kernel}: {self.change}"

    def text(self) -> str:
        """The whole file with the mutation."""
        lines = (SOURCE / self.file).read_bytes().splitlines(keepends=True)
        for node, new in sorted(self.edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
            first, last = node.lineno - 1, node.end_lineno - 1          # columns count bytes
            kept = b"\n" * (last - first)                               # inside the brackets, where it means nothing
            lines[first:last + 1] = (lines[first][:node.col_offset] + b"(" + new.encode() + kept + b")"
                                     + lines[last][node.end_col_offset:]).splitlines(keepends=True)
        return b"".join(lines).decode()


def kernels():
    """(file name, function) for every function under @triton.jit in the package."""
    for path in sorted(SOURCE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
                yield path.name, node


def replaced(file, kernel, node, new) -> Mutant:
    """The mutant in which one expression becomes another."""
    old, new = ast.unparse(node), ast.unparse(new)
    return Mutant(file, kernel.name, node.lineno, f"{old} -> {new}", ((node, new),))


def accesses(kernel):
    """The calls of tl.load, tl.store and tl.atomic_... in a kernel."""
    for node in ast.walk(kernel):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("tl.load", "tl.store", "tl.atomic_")):
            yield node


def without_mask():
    """Every access that has a mask, without it (and without the `other` that only a mask can have)."""
    for file, kernel in kernels():
        for call in accesses(kernel):
            if any(word.arg == "mask" for word in call.keywords):
                bare = copy.copy(call)
                bare.keywords = [word for word in call.keywords if word.arg not in ("mask", "other")]
                yield Mutant(file, kernel.name, call.lineno, ast.unparse(call), ((call, ast.unparse(bare)),))


def without_conjunct():
    """Every `a & b` of a kernel, as a alone and as b alone."""
    for file, kernel in kernels():
        for node in ast.walk(kernel):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
                yield replaced(file, kernel, node, node.left)
                yield replaced(file, kernel, node, node.right)


def is_program_id(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.program_id"


def with_swapped_programs():
    """Every kernel of several program ids with two of them exchanged."""
    for file, kernel in kernels():
        ids = [node for node in ast.walk(kernel) if is_program_id(node)]
        for a, b in combinations(sorted({node.args[0].value for node in ids}), 2):
            swap = {a: b, b: a}
            edits = tuple((node, f"tl.program_id({swap[node.args[0].value]})")
                          for node in ids if node.args[0].value in swap)
            yield Mutant(file, kernel.name, kernel.lineno, f"program_id({a}) <-> program_id({b})", edits)


def with_other_blocks():
    """Every `tl.program_id(i) * BLOCK` with half and with twice the block: programs overlap, or leave rows out."""
    for file, kernel in kernels():
        for node in ast.walk(kernel):
            if (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
                    and any(map(is_program_id, ast.walk(node.left)))):
                for factor in ("// 2", "* 2"):
                    new = f"{ast.unparse(node.left)} * ({ast.unparse(node.right)} {factor})"
                    yield replaced(file, kernel, node, ast.parse(new, mode="eval").body)


def with_other_row_strides():
    """Every `a * b` in the address of a store with a * (b + 1) instead."""
    for file, kernel in kernels():
        for call in accesses(kernel):
            if ast.unparse(call.func) == "tl.store":
                for node in ast.walk(call.args[0]):
                    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                        new = f"({ast.unparse(node.left)}) * ({ast.unparse(node.right)} + 1)"
                        yield replaced(file, kernel, node, ast.parse(new, mode="eval").body)


@contextmanager
def imported(mutant, folder):
    """The package with the mutation, imported from a copy in `folder` under a name of its own."""
    package = folder / "mutated_kernels"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        (package / mutant.file).write_text(mutant.text())
    spec = importlib.util.spec_from_file_location(package.name, package / "__init__.py",
                                                  submodule_search_locations=[str(package)])
    module = sys.modules[package.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
            del sys.modules[name]
