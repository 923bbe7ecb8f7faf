"""The compile gate's own judgement: every rule fails when broken once, and no kernel or operation is left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(420)       # the fixture compiles


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What the gate says about `probes.py`, compiled in a process of its own: here, kernels are interpreted."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.compile.probes"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_operation_and_every_kernel_has_a_row(judged):
    assert judged["operations without a row"] == [] and judged["kernels without a row"] == []


def test_a_good_kernel_passes(judged):
    row = judged["rows"]["good"]
    assert row["failures"] == [] and row["matrix"]["HGMMA"] > 0 and row["spills"] == 0 and row["registers"] > 0
    assert row["products"] == [[64, "f16"]] and 0 < row["shared"] <= 232448


def test_a_tile_too_large_for_its_warps_fails(judged):
    reasons = " ".join(judged["rows"]["crowded"]["failures"])
    assert "C75" in reasons and "spill instructions" in reasons


def test_a_kernel_that_does_not_compile_fails(judged):
    (reason,) = judged["rows"]["no program"]["failures"]
    assert reason.startswith("does not compile")


def test_a_compiler_that_aborts_or_hangs_is_a_row(judged):
    assert "SIGABRT" in judged["rows"]["abort"]["failures"][0]
    assert "did not end within 1 s" in judged["rows"]["hang"]["failures"][0]


@pytest.mark.parametrize("change, reason", [
    ({}, None),
    ({"spills": 16}, None),
    ({"spills": 17}, "17 spill instructions, more than 16"),
    ({"shared": 232449}, "232449 bytes of shared memory, the target has 232448"),
    ({"notes": ["C7515: wgmma serialized"]}, "ptxas: C7515"),
    ({"matrix": {"HMMA": 9}}, "no HGMMA"),
    ({"matrix": {"HMMA": 9}, "products": [[32, "bf16"], [64, "f32"]]}, None),
    ({"matrix": {}, "products": [[32, "bf16"]]}, "no HMMA"),
    ({"target": "gfx942"}, "no v_mfma"),
    ({"target": "sm_100", "matrix": {"UTCHMMA": 3}}, None),
    ({"error": "OutOfResources"}, "does not compile: OutOfResources"),
])  # fmt: skip
def test_each_rule(judged, change, reason):
    found = judged["rules"][json.dumps(change)]
    assert found == [] if reason is None else len(found) == 1 and found[0].startswith(reason)
