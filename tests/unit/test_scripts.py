"""Reproduction scripts run with torch alone: they fail on the broken kernel and pass once it is repaired."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from properties import agree, attention_inputs, cells, claim, given, rows
from properties.evidence import cell_of, check_event
from properties.subjects import load

KERNEL = '''
import torch
DTYPES = ("float32", "bfloat16")

def softmax(x):
    e = torch.exp(x.float(){shift})
    return (e / e.sum(-1, keepdim=True)).to(x.dtype)

def attention(q, k, v, scale=None):
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1).float() for x in (k, v))
    s = (q.shape[-1] ** -{power} if scale is None else scale) * (q.float() @ k.mT)
    return (torch.softmax(s, -1) @ v).to(q.dtype)

VARIANTS = {{"only": {{}}}}
'''
RIGHT = {"shift": " - x.float().amax(-1, keepdim=True)", "power": "0.5"}
WRONG = {"shift": "", "power": "1.0"}


@claim(rows="001-119")
@given(x=rows(most=5))
def softmax(impl, x):
    """A row's softmax sums to 1."""
    agree(impl.softmax(x).sum(-1), 1.0)


@claim(rows="001-001")
@given(x=attention_inputs(most=8))
def attention(impl, x):
    """Attention with its default scale."""
    agree(impl.attention(*x).out, impl.attention(*x).out)


def run_script(text: str, folder: Path) -> subprocess.CompletedProcess:
    (folder / "reproduce.py").write_text(text)
    return subprocess.run([sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=False,
                          env={"PATH": os.environ["PATH"], "HOME": str(folder)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("made", [softmax, attention], ids=lambda made: made.name)
def test_it_fails_on_the_broken_kernel_and_passes_on_the_repaired_one(made, dtype, tmp_path):
    kernel = tmp_path / "kernel.py"
    kernel.write_text(KERNEL.format(**WRONG))
    column = cells.Column("implementation", load(kernel, name="kernel")[0][0], dtype)
    outcome = cells.run(made, column, cells.Budget(60, seed=3))
    assert outcome.verdict in ("law fails", "unfaithful")
    event = check_event(cell_of("id", made, column), outcome)
    script = event["counterexample"]["script"]
    assert "properties" not in script and "hypothesis" not in script
    broken = run_script(script, tmp_path)
    assert broken.returncode == 1 and "AssertionError: off by" in broken.stderr, broken.stderr
    kernel.write_text(KERNEL.format(**RIGHT))
    repaired = run_script(script, tmp_path)
    assert repaired.returncode == 0, repaired.stderr
