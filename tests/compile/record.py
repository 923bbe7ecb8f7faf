"""What the kernels' callers launch, written down instead of launched: no GPU is needed to call them.

There is no second list of tile sizes here. `CALLS` says how the operations of `impls.triton_kernels` are called; what
they then launch, with which tiles, warps and specialised arguments, is asked of them. The call goes through Triton's
own specialisation of arguments (divisible by 16, equal to 1, aligned pointers) for a driver that claims to have the
target, and stops where Triton would start to compile.
"""

import sys
from dataclasses import dataclass, field

import torch
import triton
from impls import triton_kernels
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Launch:
    """A kernel as it would be compiled for one target, and the calls that launch it so."""

    target: str
    kernel: JITFunction
    signature: dict
    constants: dict
    attributes: dict
    options: object
    calls: list = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__

    @property
    def configuration(self) -> dict:
        """The compile-time numbers of the kernel, its warps and its stages, by name."""
        names = [p.name for p in self.kernel.params]
        numbers = {names[path[0]]: value for path, value in self.constants.items()
                   if len(path) == 1 and isinstance(value, int) and names[path[0]].isupper()}  # fmt: skip
        return numbers | {"num_warps": self.options.num_warps, "num_stages": self.options.num_stages}


class Driver:
    """As much of a Triton driver as a launch asks for before it compiles."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class OnGpu(torch.Tensor):
    """A tensor in main memory that says it is on a GPU."""

    is_cuda = True


def tensor(*shape, dtype=torch.bfloat16) -> torch.Tensor:
    """Uninitialised, of that shape."""
    return torch.empty(shape, dtype=dtype).as_subclass(OnGpu)


def kernels() -> list[JITFunction]:
    """Every kernel of the package, and every function that they call."""
    modules = [m for name, m in list(sys.modules.items()) if name.startswith(f"{triton_kernels.__name__}.")]
    return list({id(x): x for m in modules for x in vars(m).values() if isinstance(x, JITFunction)}.values())


def launches(target: str, calls: dict) -> list[Launch]:
    """Everything that the calls, functions without arguments by label, launch on the target: equal ones once."""
    found, counts = {}, dict.fromkeys(calls, 0)

    def note(kernel, key, signature, device, constants, options, attributes, warmup):
        written = str((kernel.fn.__name__, signature, constants, attributes, options))
        launch = found.setdefault(written, Launch(target, kernel, signature, constants, attributes, options))
        counts[label] += 1
        if label not in launch.calls:
            launch.calls.append(label)

    compiling = JITFunction._do_compile
    JITFunction._do_compile = note
    triton.runtime.driver.set_active(Driver(TARGETS[target]))
    try:
        for kernel in kernels():
            kernel.device_caches.clear()    # they remember the target before
        for label, call in calls.items():
            call()
    finally:
        JITFunction._do_compile = compiling
        triton.runtime.driver._active = None
        for kernel in kernels():
            kernel.device_caches.clear()
    if silent := [label for label, count in counts.items() if not count]:
        raise AssertionError(f"no kernel is launched by {', '.join(silent)}: correct CALLS")
    return list(found.values())
