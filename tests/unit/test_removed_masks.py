"""Every mask of every kernel is needed, and its absence is noticed: removed one at a time, each is reported.

Reported means: by the sanitizer, as a lane outside of every tensor or two programs at one address; or, where every
lane stays inside, by a result outside its error budget. The mutants are found in the source, so a new kernel is
covered as soon as it is there. A mask that can go without anybody noticing is superfluous, or the calls in
`kernel_cases.py` do not reach it, or the sanitizer is blind: there is no list of exceptions.
"""

from contextlib import suppress
from pathlib import Path

import pytest
import torch

try:    # before triton: decides that the kernels are interpreted
    from impls import triton_kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

if not triton_kernels.INTERPRETED:
    pytest.skip("the kernels are compiled on this machine: no interpreter is active", allow_module_level=True)

from triton.runtime import interpreter as stock

from tests.unit import mutants
from tests.unit.kernel_cases import CASES, cases_of, judge, offered


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory holds NaN, so that an element which is never written cannot hold an earlier call's result."""
    for name in ("empty", "empty_like"):
        def poison(*args, fresh=getattr(torch, name), **kwargs):
            x = fresh(*args, **kwargs)
            return x.fill_(float("nan")) if x.is_floating_point() else x
        monkeypatch.setattr(torch, name, poison)


def test_every_operation_is_called():
    called = {(variant, operation) for variant, operation, _ in CASES.values()}
    assert offered(triton_kernels) <= called, "write a case in kernel_cases.py"


@pytest.mark.parametrize("name", cases_of(triton_kernels))
def test_an_unchanged_copy_is_right(name, tmp_path, poisoned):
    with mutants.imported(None, tmp_path) as package:
        assert judge(package, name) == ""


@pytest.fixture(scope="module")
def reached():
    """{(file, function): names of the cases that run it and are right with the kernels as they are}."""
    functions = {}

    def noting(call):
        def noted(self, *args, **kwargs):
            running.add((Path(self.fn.__code__.co_filename).name, self.fn.__name__))
            return call(self, *args, **kwargs)
        return noted

    with pytest.MonkeyPatch.context() as patch:
        for of in (stock.GridExecutor, stock.InterpretedFunction):      # launches; calls from kernel to kernel
            patch.setattr(of, "__call__", noting(of.__call__))
        for name in cases_of(triton_kernels):
            running = set()
            with suppress(Exception):                                   # wrong ones fail the test above
                for function in running if judge(triton_kernels, name) == "" else ():
                    functions.setdefault(function, []).append(name)
    return functions


@pytest.fixture
def report(reached, tmp_path, poisoned):
    """report(mutant): what the cases that reach it report first, "" if all find it right."""
    def run(mutant):
        names = reached.get((mutant.file, mutant.kernel))
        assert names, f"no right case in kernel_cases.py runs {mutant.kernel} of {mutant.file}"
        with mutants.imported(mutant, tmp_path) as package:
            return next(filter(None, (judge(package, name) for name in names)), "")
    return run


def each(found):
    return pytest.mark.parametrize("mutant", list(found), ids=str)


@each(mutants.without_mask())
def test_a_removed_mask_is_reported(mutant, report):
    assert report(mutant), f"nothing notices that the mask of {mutant} is missing"


@each(mutants.without_conjunct())
def test_a_weakened_mask_is_reported(mutant, report):
    assert report(mutant), f"nothing notices {mutant}"


@each(mutants.with_swapped_programs())
def test_exchanged_program_ids_are_reported(mutant, report):
    assert report(mutant), f"nothing notices {mutant}"


@each(mutants.with_other_blocks())
def test_overlapping_and_skipped_blocks_are_reported(mutant, report):
    assert report(mutant), f"nothing notices {mutant}"


@each(mutants.with_other_row_strides())
def test_wrong_row_strides_are_reported(mutant, report):
    assert report(mutant), f"nothing notices {mutant}"
