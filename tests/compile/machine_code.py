"""A recorded launch compiled to machine code without a GPU, what that needs of the target, and whether that will do."""

import os
import re
import signal
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path

import triton
from triton.compiler import ASTSource

from .record import TARGETS, Launch

SHARED_LIMITS = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}  # bytes a program may have
MAX_SPILLS = 16
SECONDS = 300
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# What multiplies matrices. Of the first two, the newer one takes tiles of 64 rows and more from shared memory.
MATRIX = {
    "sm_80": ("HMMA",),
    "sm_90": ("HGMMA", "HMMA"),
    "sm_100": ("UTCHMMA", "HMMA"),
    "gfx942": ("v_mfma",),
}
COUNTED = ("HGMMA", "UTCHMMA", "HMMA", "DMMA", "v_mfma")


def sass(cubin: bytes) -> Counter:
    """The instructions of an NVIDIA kernel by name, without their suffixes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([TOOLS / "cuobjdump", "-sass", file.name], capture_output=True, text=True, check=True)
    line = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]*)"
    return Counter(re.findall(line, text.stdout, re.M))


def products(ttir: str) -> list[tuple[int, str]]:
    """(rows, type of the operands) of every product of tiles in the program."""
    found = re.findall(r"tt\.dot .*: tensor<(\d+)x\d+x(\w+)> \* tensor<", ttir)
    return sorted({(int(rows), dtype) for rows, dtype in found})


def facts(launch: Launch, compiled, log: str) -> dict:
    """What the machine code needs: registers a thread, spills, shared memory, matrix instructions, notes."""
    if "cubin" in compiled.asm:
        instructions = sass(compiled.asm["cubin"])
        registers = int(re.search(r"Used (\d+) registers", log)[1])
        spills = instructions["LDL"] + instructions["STL"]
    else:
        assembly = compiled.asm["amdgcn"]
        instructions = Counter(re.findall(r"^\s+(v_mfma|scratch_load|scratch_store)_", assembly, re.M))
        registers = int(re.search(r"\.vgpr_count:\s+(\d+)", assembly)[1])
        spills = instructions["scratch_load"] + instructions["scratch_store"]
    return {
        "registers": registers,
        "spills": spills,
        "shared": compiled.metadata.shared,
        "matrix": {name: instructions[name] for name in COUNTED if instructions[name]},
        "notes": sorted({f"{code}: {text.strip()}" for code, text in re.findall(r"\((C75\d\d)\)(.*)", log)}),
        "products": products(compiled.asm["ttir"]),
    }


def wanted(target: str, product: tuple[int, str]) -> str | None:
    """The matrix instruction that a product of such tiles has to become: derived from its rows and type.

    float32 is multiplied as it is, which no tensor core does; whether float64 is worth one is the compiler's choice.
    """
    rows, dtype = product
    if dtype not in ("f16", "bf16") or rows < 16:
        return None
    return MATRIX[target][0 if rows >= 64 else -1]


def failures(row: dict) -> list[str]:
    """Why a row of the table is not good enough; empty if it is."""
    if "error" in row:
        return [f"does not compile: {row['error']}"]
    found, limit = [], SHARED_LIMITS[row["target"]]
    if row["notes"]:
        found.append(f"ptxas: {'; '.join(row['notes'])}")
    if row["spills"] > MAX_SPILLS:
        found.append(f"{row['spills']} spill instructions, more than {MAX_SPILLS}")
    if row["shared"] > limit:
        found.append(f"{row['shared']} bytes of shared memory, the target has {limit}")
    needed = {wanted(row["target"], tuple(product)) for product in row["products"]} - {None}
    for name in sorted(needed - set(row["matrix"])):
        found.append(f"no {name}, which its half-precision products of tiles should become")
    return found


def describe(launch: Launch) -> dict:
    """The columns of a row that are known before anything is compiled."""
    return {"target": launch.target, "kernel": launch.name, "configuration": launch.configuration,
            "calls": launch.calls}  # fmt: skip


def _compile(launch: Launch, output: str, cache: str, connection):
    """In a child: compile and send the facts. All that the compiler prints goes to the file `output`."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= {"TRITON_CACHE_DIR": cache, "TRITON_DUMP_PTXAS_LOG": "1"}
    started = time.perf_counter()
    try:
        source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
        compiled = triton.compile(source, target=TARGETS[launch.target], options=launch.options.__dict__)
        import sys

        sys.stdout.flush()
        result = facts(launch, compiled, Path(output).read_text(errors="replace"))
    except Exception as error:
        lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        result = {"error": " ".join(lines)[:400], "traceback": traceback.format_exc()[-4000:]}
    connection.send(result | {"seconds": round(time.perf_counter() - started, 2)})
    connection.close()


def compile_all(launches: list[Launch], *, workers: int = 2, seconds: float = SECONDS):
    """Yield a row per launch as they end, each compiled in a child process of its own.

    A compiler that aborts or does not end within `seconds` takes its child along and is a row that says so.
    """
    context, waiting, running = get_context("fork"), list(launches), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < workers:
                launch = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                place = Path(folder, str(len(waiting)))
                place.mkdir()
                child = context.Process(
                    target=_compile, args=(launch, str(place / "output"), str(place / "cache"), sender))  # fmt: skip
                child.start()
                sender.close()
                running[receiver] = launch, child, place / "output", time.monotonic()
            for receiver in wait(list(running), timeout=1):
                launch, child, output, _ = running.pop(receiver)
                try:
                    result = receiver.recv()
                except EOFError:
                    result = None
                child.join()
                yield judged(launch, result or died(child.exitcode, output))
            for receiver, (launch, child, output, started) in list(running.items()):
                if time.monotonic() - started > seconds:
                    del running[receiver]
                    child.kill()
                    child.join()
                    yield judged(launch, {"error": f"the compiler did not end within {seconds:g} s"})


def died(exitcode: int, output: Path) -> dict:
    """The row of a child that sent nothing, with the last line that its compiler printed."""
    how = f"was ended by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"left with status {exitcode}"
    lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return {"error": f"the compiler {how}" + (f": {lines[-1][:300]}" if lines else "")}


def judged(launch: Launch, result: dict) -> dict:
    row = describe(launch) | result
    return row | {"failures": failures(row)}
