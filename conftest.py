"""Options and wiring: where the claims, the implementations and the ledger are."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")        # before NumPy: small matrices, several processes
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path  # noqa: E402

from properties.plugin import Places, add_options, register  # noqa: E402

ROOT = Path(__file__).parent
NOT_IMPLEMENTATIONS = ("wrong", "placebo", "equivalent", "__pycache__")


def implementations() -> dict[str, Path]:
    """Every file or package in impls/, by name."""
    found = [p for p in sorted((ROOT / "impls").iterdir())
             if (p.suffix == ".py" or (p / "__init__.py").is_file()) and p.name not in NOT_IMPLEMENTATIONS]
    return {path.stem: path for path in found}


def pytest_addoption(parser):
    add_options(parser)


def pytest_configure(config):
    register(config, Places(implementations(), ROOT / "spec" / "ledger.jsonl", ROOT / "reports",
                            known=ROOT / "impls" / "wrong" / "known.json"))
