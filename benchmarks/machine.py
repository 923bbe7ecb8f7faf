"""The machine that a measurement belongs to."""

import platform
import shutil
import subprocess
import sys
from importlib import metadata

import numpy as np
import torch

ASKED = {
    "driver": "driver_version", "power_limit_w": "power.limit", "sm_clock_mhz": "clocks.sm",
    "sm_clock_max_mhz": "clocks.max.sm", "memory_clock_mhz": "clocks.mem", "memory_clock_max_mhz": "clocks.max.mem",
    "temperature_c": "temperature.gpu", "power_w": "power.draw", "ecc": "ecc.mode.current", "mig": "mig.mode.current",
}
STATE = ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w")


def _number(text: str):
    try:
        return float(text)
    except ValueError:
        return text


def nvidia_smi(keys=tuple(ASKED)) -> dict:
    """What nvidia-smi says of the device in use, by our names; empty where it is missing or does not answer."""
    binary = shutil.which("nvidia-smi")
    if not binary or not torch.cuda.is_available():
        return {}
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    command = [binary, f"--query-gpu={','.join(ASKED[key] for key in keys)}", "--format=csv,noheader,nounits"]
    for which in [[f"--id=GPU-{uuid}"], []] if uuid else [[]]:      # it may not know the device by that name
        try:
            done = subprocess.run([*command, *which], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        values = [value.strip() for value in (done.stdout.splitlines() or [""])[0].split(",")]
        if done.returncode == 0 and len(values) == len(keys):
            return dict(zip(keys, map(_number, values)))
    return {}


def describe() -> dict:
    """The device (None without a GPU), its clocks and limits now, and the versions of everything that compiles."""
    try:
        triton_version = metadata.version("triton")     # an import would decide whether kernels are interpreted
    except metadata.PackageNotFoundError:
        triton_version = None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton_version,
                "numpy": np.__version__, "cuda": torch.version.cuda}
    if not torch.cuda.is_available():
        return {"gpu": None, **versions, "cpu": platform.processor() or platform.machine()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name, "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        **versions, "cudnn": torch.backends.cudnn.version(), **nvidia_smi(),
    }


def device_of(machine: dict) -> tuple:
    """What must be equal for two measurements to be compared."""
    return machine.get("gpu"), machine.get("power_limit_w"), machine.get("mig")


def main() -> int:
    """Print it; 1 without a GPU."""
    machine = describe()
    for key, value in machine.items():
        print(f"{key:>22}  {value}")
    return 0 if machine["gpu"] else 1


if __name__ == "__main__":
    sys.exit(main())
