"""`torch.compile` of the textbook functions in ../naive.py: the same formulas, fused by inductor into C++ for the CPU.

Sizes are symbols (`dynamic=True`), so one compilation serves many shapes. Whatever falls back to eager raises:
a graph break (`fullgraph=True`), a frame compiled too often (`RECOMPILATIONS`), a call in which no compiled code ran.
"""
import importlib.util
import shutil
from functools import wraps
from pathlib import Path

import torch

if not (shutil.which("g++") or shutil.which("clang++")):
    raise NotImplementedError("torch.compile needs a C++ compiler (g++ or clang++), and there is none on the PATH")

import torch._dynamo
from torch._inductor.compile_fx import compile_fx

DTYPES = ("float64", "float32", "float16", "bfloat16")
ROUNDING = "fp32-inside"
OPERATIONS = ("softmax", "log_sum_exp", "masked_softmax", "attention", "layer_norm", "gelu", "rope")
RECOMPILATIONS = 1024     # of one function: ranks, dtypes, layouts, options, and sizes 0 and 1, which are no symbols

torch._dynamo.config.recompile_limit = RECOMPILATIONS
torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS * len(OPERATIONS)
torch._dynamo.config.fail_on_recompile_limit_hit = True
torch._dynamo.config.suppress_errors = False
torch._inductor.config.compile_threads = 1


def _naive():
    """The module of ../naive.py, of its own."""
    spec = importlib.util.spec_from_file_location("naive_to_compile", Path(__file__).parents[1] / "naive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launched = 0              # calls of compiled code in this process


def _inductor(graph, example_inputs):
    """Inductor's code for a graph; every launch of it is counted."""
    run = compile_fx(graph, example_inputs)

    def counted(*arguments):
        global launched
        launched += 1
        return run(*arguments)

    return counted


def _compiled(function):
    """The function, compiled. Arguments that it refuses, it refuses on shapes alone, before anything is compiled."""
    fast = torch.compile(function, backend=_inductor, fullgraph=True, dynamic=True)

    @wraps(function)
    def call(*args, **kwargs):
        if kwargs.get("window") is not None:
            raise NotImplementedError("the message about a bad window is formatted with a symbol, which is not traced")
        function(*map(_shape_only, args), **{name: _shape_only(x) for name, x in kwargs.items()})
        before = launched
        result = fast(*args, **kwargs)
        if launched == before:
            raise RuntimeError(f"{function.__name__} did not run compiled code: it fell back to eager")
        return result

    return call


def _shape_only(x):
    return torch.empty_like(x, device="meta") if isinstance(x, torch.Tensor) else x


globals().update({name: _compiled(getattr(_naive(), name)) for name in OPERATIONS})
