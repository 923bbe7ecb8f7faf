"""Equivalent implementations: every variant is there, no two are the same, and the compiled one never runs eagerly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from properties.subjects import load

ROOT = Path(__file__).parents[2]
EQUIVALENT = ROOT / "impls" / "equivalent"
EAGER = """
import torch
from pathlib import Path
from properties.subjects import load
(compiled,), _ = load(Path({path!r}), name="compiled")
compiled.operations["softmax"](torch.zeros(2, 3))
"""


def test_every_variant_is_loaded_and_attends():
    subjects, problems = load(EQUIVALENT / "odd", name="odd")
    assert not problems and len(subjects) == 20
    x = torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = {s.name: s.operations["attention"](x, x, x, causal=True)[0] for s in subjects}
    first = next(iter(results.values()))
    assert all((out - first).abs().max() < 1e-14 for out in results.values())
    assert len({out.numpy().tobytes() for out in results.values()}) > 10                 # and they round differently


def test_the_compiled_one_refuses_to_run_eagerly():
    pytest.importorskip("torch._inductor")
    code = EAGER.format(path=str(EQUIVALENT / "compiled.py"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True,
                          env=os.environ | {"TORCHDYNAMO_DISABLE": "1"}, capture_output=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "fell back to eager" in done.stderr or "needs a C++ compiler" in done.stderr
