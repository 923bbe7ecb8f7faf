"""What the tests of Attest share: running pytest on specs and kernels in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Run:
    """A finished run of pytest: its exit status, what it printed, and its events."""

    status: int
    output: str
    events: list[dict]

    def checks(self) -> dict[str, dict]:
        """The check events by the last part of the cell's id."""
        return {e["id"].split("::")[-1]: e for e in self.events if e["event"] == "check"}

    def problems(self) -> list[dict]:
        return [e for e in self.events if e["event"] == "problem"]


@pytest.fixture
def attest(tmp_path):
    """attest(spec=text or None, kernels={name: text}, options=[...]) runs the claims of a temporary spec folder."""

    def run(*options: str, spec: dict[str, str] | None = None, kernels: dict[str, str] | None = None,
            workers: int = 0) -> Run:
        folder = tmp_path / "claims"
        folder.mkdir(exist_ok=True)
        for name, text in (spec or {}).items():
            (folder / name).write_text(text)
        implementations = []
        for name, text in (kernels or {}).items():
            (tmp_path / name).write_text(text)
            implementations.append(f"--impl={tmp_path / name}")
        reports = tmp_path / "reports"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--spec-dir={folder}",
                   f"--reports={reports}", *implementations, *options]
        command += ["-n", str(workers), "--max-worker-restart", "1000"] if workers else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
                              env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
        events = [json.loads(line) for file in sorted((reports / "events").glob("*.jsonl"))
                  for line in file.read_text().splitlines()] if reports.is_dir() else []
        return Run(done.returncode, done.stdout + done.stderr, events)

    return run
