"""Claims of a folder without pytest: for tools and tests that go through all of them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

from .claims import Claim


def claims_in(folder: Path) -> list[Claim]:
    """All claims of the folder's Python files, in order of file and line; each file is imported once."""
    found: list[Claim] = []
    for path in sorted(folder.glob("*.py")):
        name = f"attest_spec_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        claims = {v.name: v for v in vars(sys.modules[name]).values()
                  if isinstance(v, Claim) and Path(v.file).resolve() == path.resolve()}
        found += sorted(claims.values(), key=lambda claim: claim.line)
    return found
