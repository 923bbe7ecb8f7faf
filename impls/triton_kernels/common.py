"""What the kernels and their callers share: constants, checks of arguments, sizes of tiles."""

import os
from operator import index

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# exp2 is what the hardware has. As double constants: rounded to float32 they would cost a float64 kernel nine digits.
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INF = tl.constexpr(float("inf"))

ARITHMETIC = {
    torch.float64: tl.float64, torch.float32: tl.float32, torch.float16: tl.float32, torch.bfloat16: tl.float32}


def require(condition, message):
    """ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_tensor(name, x):
    require(isinstance(x, torch.Tensor), f"{name} must be a tensor, got {type(x).__name__}")


def require_number(name, x):
    try:
        float(x)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {x!r}") from None


def require_whole(name, x):
    try:
        index(x)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {x!r}") from None


def as_numbers(name, x, like):
    """A tensor or list of numbers, on the device of `like`; ValueError if it holds none."""
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from None
    require(x.device.type != "meta", f"{name} is on {x.device}, where it has no values")
    require(x.dtype != torch.bool and not x.is_complex(), f"{name} has dtype {x.dtype}; they are numbers")
    return x.to(like.device)


def require_floats(**tensors):
    """Every tensor is floating point of a supported dtype, and all have one dtype and device."""
    for name, x in tensors.items():
        require_tensor(name, x)
    (first_name, first), *others = tensors.items()
    require_memory(first_name, first)
    for name, x in tensors.items():
        require(x.dtype in ARITHMETIC, f"{name} has dtype {x.dtype}; supported are float64, float32, float16, bfloat16")
    for name, x in others:
        require(x.dtype == first.dtype, f"{name} has dtype {x.dtype}, but {first_name} has {first.dtype}")
        require_device(name, x, first_name, first)


def require_memory(name, x):
    """x lies where the kernels can reach it: on the GPU, or, in the interpreter, anywhere that has memory."""
    require(x.is_cuda or (INTERPRETED and x.device.type == "cpu"),
            f"{name} is on {x.device}; the kernels " + ("are interpreted on the CPU" if INTERPRETED else
                                                        "are compiled for the GPU"))


def require_device(name, x, first_name, first):
    require(x.device == first.device, f"{name} is on {x.device}, but {first_name} is on {first.device}")


def require_offsets(name, x, last=2):
    """The last dims of x are spanned by offsets of 32 bits, which is what the kernels have inside of a head."""
    if sum((n - 1) * stride for n, stride in zip(x.shape[-last:], x.stride()[-last:])) >= 2**31:
        raise NotImplementedError(f"{name} of shape {tuple(x.shape)} and strides {tuple(x.stride())} spans 2**31 "
                                  f"elements or more within its last {last} dims, beyond 32-bit offsets")


def require_grid(programs):
    """{what they are for: number of programs} along the second or third axis of a grid: no more than a GPU launches."""
    for what, n in programs.items():
        if n > 65535:
            raise NotImplementedError(f"{what} would be {n}; a GPU takes 65535 programs along this axis")


def state_dtype(*tensors):
    """The dtype of lse, m, l and acc: float64 if any tensor has it, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def target():
    """The GPU in use by what its kernels have to be: sm_80 (also newer ones without its matrix instructions), sm_90,
    sm_100, or the name of another vendor's."""
    arch = triton.runtime.driver.active.get_current_target().arch
    return arch if isinstance(arch, str) else {9: "sm_90", 10: "sm_100"}.get(arch // 10, "sm_80")


def rows_per_program(n_rows, n_columns):
    """How many rows of n_columns make a tile.

    A GPU keeps a tile in registers: some 4096 elements a program. The interpreter pays per operation and not per
    element: there a tile takes all rows that one program can reasonably hold.
    """
    budget = 2**17 if INTERPRETED else 4096
    return min(triton.next_power_of_2(max(n_rows, 1)), max(budget // triton.next_power_of_2(max(n_columns, 1)), 1))


def warps(n_elements):
    """Warps for a tile of that many elements: 16 to 32 elements a thread, 4 to 16 warps."""
    return min(max(triton.next_power_of_2(n_elements // 1024), 4), 16)
