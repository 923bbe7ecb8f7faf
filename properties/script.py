"""Reproduction scripts: a failing example as a file that imports the kernel and otherwise torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .operations import OPERATIONS
from .trial import Call, Failure

if TYPE_CHECKING:
    from .evidence import Cell


def reproduction(cell: Cell, failure: Failure) -> str:
    """A Python script that shows the failure: each call of the example, what came back and what is exact."""
    calls = [c for c in failure.calls if c.operation]
    if not calls:
        return ""
    if cell.implementation is None:
        return _over_the_reals(cell, failure)
    lines = [f'"""{cell.title}', "", f"{cell.id}: {failure.message}", '"""', ""]
    lines += ["import importlib.util", "import sys", "", "import torch", "", *_import(cell), ""]
    for number, call in enumerate(calls, 1):
        lines += [*_call(number, call, cell), ""]
    if failure.relation is not None and failure.relation.sign == "==" and not any(c.wrong() for c in calls):
        lines += _same_bits(failure)
    return "\n".join(lines) + "\n"


def _import(cell: Cell) -> list[str]:
    path, variant = cell.file, cell.implementation.partition(".")[2]
    folder = not path.endswith(".py")
    file = f"{path}/__init__.py" if folder else path
    lines = [f"spec = importlib.util.spec_from_file_location(\"kernel\", {file!r}"
             + (f", submodule_search_locations=[{path!r}])" if folder else ")"),
             "kernel = importlib.util.module_from_spec(spec)", 'sys.modules["kernel"] = kernel',
             "spec.loader.exec_module(kernel)"]
    if variant:
        lines.append(f"variant = {{**vars(kernel), **kernel.VARIANTS[{variant!r}]}}")
    return lines


def _call(number: int, call: Call, cell: Cell) -> list[str]:
    operation = OPERATIONS[call.operation]
    numpy = cell.array == "numpy"
    lines, names = [], {}
    for name, value in call.given.items():
        if value is None or (name not in operation.required and isinstance(value, bool) and not value):
            continue
        if isinstance(value, np.ndarray):
            variable = f"{name}_{number}"
            lines.append(f"{variable} = {literal(value, call, name, numpy=numpy, device=cell.device)}")
            names[name] = variable
        else:
            names[name] = repr(value)
    variant = "." in cell.implementation
    function = f'variant["{call.operation}"]' if variant else f"kernel.{call.operation}"
    options = [f"{name}={value}" for name, value in names.items() if name not in operation.required]
    arguments = [names[name] for name in operation.required] + options
    lines.append(f"r{number} = {function}({', '.join(arguments)})")
    parts = [n.strip("+?") for n in operation.returns]
    if call.operation == "merge":
        lines += [f"m, l, acc = (x.double() for x in r{number})" if not numpy else
                  f"m, l, acc = (torch.from_numpy(x).double() for x in r{number})",
                  f"got_{number} = {{'out': acc / l[..., None], 'lse': m + l.log()}}"]
    else:
        lines.append(f"parts = r{number} if isinstance(r{number}, tuple) else (r{number},)")
        lines.append(f"got_{number} = dict(zip({parts!r}, "
                     + ("(torch.as_tensor(x) for x in parts)" if numpy else "parts") + "))")
    for q in call.quantities:
        if q.name not in parts and call.operation != "merge":
            continue
        lines += [f"expected = {_numbers(q.expected)}", f"budget = {_numbers(q.budget)}",
                  f"got = got_{number}[{q.name!r}].double().cpu()",
                  f"print('{call.operation}: {q.name}', got, 'expected', expected, sep='\\n')"]
        if q.used > 1:
            lines.append("assert torch.all((got == expected) | ((got - expected).abs() <= budget)), "
                         "f'off by {(got - expected).abs().max():.3g}, budget {budget.max():.3g}'"
                         if q.kind is None else
                         "print('elements that must be NaN or infinite are shown above as expected')")
    if call.fault:
        lines.append(f"print({('reported: ' + call.fault)!r}, *parts, sep='\\n')" if call.operation != "merge" else
                     f"print({('reported: ' + call.fault)!r})")
    return lines


def _same_bits(failure: Failure) -> list[str]:
    relation = failure.relation
    left, right = float(relation.left.value[relation.at]), float(relation.right.value[relation.at])
    return [f"# {relation.left} and {relation.right} must hold the same number at {relation.at}:",
            f"# they hold {left!r} and {right!r}"]


def _over_the_reals(cell: Cell, failure: Failure) -> str:
    """The exact column has no kernel: show the exact values that contradict the statement."""
    relation = failure.relation
    if relation is None:
        return ""
    lines = [f'"""{cell.title}', "", "A counterexample over the reals."] + ['"""', "", "import torch", ""]
    for number, call in enumerate(failure.calls, 1):
        for name, value in call.given.items():
            if isinstance(value, np.ndarray):
                lines.append(f"{name}_{number} = {_numbers(value)}      # of {call.operation}")
    lines += [f"left = {_numbers(relation.left.exact)}", f"right = {_numbers(relation.right.exact)}",
              "print(left, right, left - right, sep='\\n')"]
    return "\n".join(lines) + "\n"


def literal(value: np.ndarray, call: Call, name: str, *, numpy: bool, device: str) -> str:
    """An array as an expression that makes the tensor which the kernel received."""
    operation = OPERATIONS[call.operation]
    dtype = call.dtype
    if value.dtype == bool or value.dtype.kind == "i":
        text = f"torch.tensor({value.tolist()})"
    else:
        if name in operation.states and dtype in ("float16", "bfloat16"):
            dtype = "float32"
        text = _numbers(value, dtype=dtype)
    if numpy:
        return f"{text}.numpy()"
    return text if device == "cpu" else f"{text}.to({device!r})"


def _numbers(value: np.ndarray, *, dtype: str = "float64") -> str:
    text = repr(np.asarray(value, np.float64).tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
    if not value.size:
        return f"torch.empty({tuple(value.shape)!r}, dtype=torch.{dtype})"
    return f"torch.tensor({text}, dtype=torch.{dtype})"
