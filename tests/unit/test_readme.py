"""The README says what is true: every operation with its signature, every contract, every environment."""

import configparser
import re
from pathlib import Path

from properties.numerics import PRESETS
from properties.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_operation_stands_in_it_with_its_signature():
    for operation in OPERATIONS.values():
        assert f"| `{operation.name}{operation.signature}` | {operation.summary} |" in README


def test_every_contract_stands_in_it():
    for name, meaning in PRESETS.items():
        assert f"| `{name}` | {meaning} |" in README


def test_every_file_and_environment_it_names_is_there():
    tox = configparser.RawConfigParser()
    tox.read(ROOT / "tox.ini")
    known = set(re.findall(r"^\s*([a-z]+):", tox["testenv"]["commands"], re.M))
    assert set(re.findall(r"tox -e (\w+)", README)) <= known
    for path in re.findall(r"`((?:impls|spec|docs|benchmarks)/[\w./]+)`|\]\((docs/[\w./]+)\)", README):
        assert (ROOT / (path[0] or path[1])).exists(), path
