"""The usual gates and plain inputs: whom they pass, whom they catch, and what is recorded of it."""

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from properties.operations import OPERATIONS
from properties.power import __main__ as command
from properties.power.compare import comparison, percentile
from properties.power.gates import GATES, ByGate, example_of
from properties.power.kills import kills_of
from properties.power.plain import plain_claim
from properties.power.suspects import wrong_in
from properties.power.usual import ARGUMENTS, Sizes, normals, usual_arguments
from properties.subjects import load

ROOT = Path(__file__).parents[2]
BASE = load(ROOT / "impls" / "naive.py", name="naive")[0][0]
WRONG = '''
    """Attention, right and wrong."""

    import torch

    DTYPES = ("float64", "float32", "float16", "bfloat16")


    def right(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None, *, largest=float("inf")):
        """Nothing is wrong here.

        Family: none.
        """
        wide, groups = torch.promote_types(q.dtype, torch.float32), q.shape[1] // k.shape[1]
        keys, values = (x.to(wide).repeat_interleave(groups, 1) for x in (k, v))
        s = q.to(wide) @ keys.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        s = (s if bias is None else s + bias).clamp(max=largest)
        keep, last = torch.ones(s.shape[-2:], dtype=torch.bool), s.shape[-1] - s.shape[-2]
        keep = keep.tril(last) if causal or window else keep
        keep = keep & ~keep.tril(last - window) if window else keep
        s = s.masked_fill(~(keep if mask is None else keep & mask), -torch.inf)
        return (s.softmax(-1).nan_to_num(0.0) @ values).to(q.dtype), s.logsumexp(-1)


    def scale_is_forgotten(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
        """Scores are not divided by the root of the head dim.

        Family: scale.
        """
        return right(q, k, v, causal, mask, 1.0, window, bias)


    def scores_end_at_64(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
        """Scores above 64 count as 64.

        Family: numerics.
        """
        return right(q, k, v, causal, mask, scale, window, bias, largest=64.0)
'''
CLAIM = '''
    """One claim."""

    from properties import attention_inputs, claim, given


    @claim(rows="001-119", formula="")
    @given(x=attention_inputs())
    def value(impl, x):
        """Attention lies within its budget."""
        impl.attention(x.q, x.k, x.v, **x.options)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gates")
    for name, text in (("wrong/attention.py", WRONG), ("spec/small.py", CLAIM)):
        (folder / name).parent.mkdir()
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    return folder


@pytest.fixture(scope="module")
def suspects(folder):
    return {s.name.partition(".")[2]: s for s in wrong_in(folder / "wrong", BASE)[0]}


@pytest.fixture(scope="module")
def caught(suspects):
    judged = [suspects[name] for name in ("right", "scale_is_forgotten", "scores_end_at_64")]
    return {gate: {kill.suspect.partition(".")[2] for kill in ByGate(gate, "attention", BASE).kills_of(judged)}
            for gate in GATES}


def test_a_right_implementation_passes_every_gate(caught):
    assert not [gate for gate, names in caught.items() if "right" in names]


def test_a_gross_mistake_is_caught_by_every_gate(caught):
    assert all("scale_is_forgotten" in names for names in caught.values())


def test_a_mistake_in_large_scores_passes_every_gate_that_draws_normals(caught):
    assert not [gate for gate, names in caught.items() if "scores_end_at_64" in names]


def test_a_gate_brings_its_own_dtypes_but_a_dtype_that_is_not_taken_is_no_finding(suspects):
    def takes_no_half(q, *given, **options):
        assert_float32(q)
        return suspects["right"].subject.operations["attention"](q, *given, **options)

    def assert_float32(q):
        if q.dtype != torch.float32:
            raise TypeError("float32 only")

    def only_float32(name, operations=None):
        subject = suspects[name].subject
        return replace(suspects[name], subject=replace(subject, dtypes=("float32",),
                                                       operations=operations or subject.operations))

    for gate in GATES:
        judge = ByGate(gate, "attention", BASE)
        assert judge.kills_of([only_float32("scale_is_forgotten")]), gate
        assert not judge.kills_of([only_float32("right", {"attention": takes_no_half})]), gate


def test_who_took_the_process_along_is_judged_no_further_in_any_dtype(suspects):
    judged, watched = [suspects["right"], suspects["scale_is_forgotten"]], []
    kills = ByGate("allclose on randn", "attention", BASE).kills_of(
        judged, excluded={("attention.scale_is_forgotten", "float64")}, watch=lambda *now: watched.append(now))
    assert not kills and watched[0] == ("attention.right", "float32", 1)
    assert {suspect for suspect, _, _ in watched} == {"attention.right"}


def test_plain_numbers_up_to_10_notice_large_scores(suspects):
    claim = plain_claim("attention", BASE.operations["attention"])
    kills = kills_of(claim, [suspects["right"], suspects["scores_end_at_64"]], examples=100, seed=1, once=True)
    assert {kill.suspect for kill in kills} == {"attention.scores_end_at_64"}


def test_a_suspect_that_writes_its_lengths_does_no_harm_to_the_next(suspects):
    def advances(q, k_new, v_new, k_cache, v_cache, lens, scale=None):
        out = BASE.operations["decode"](q, k_new, v_new, k_cache, v_cache, lens, scale)
        lens += q.shape[2]
        return out

    judged = [replace(suspects["right"], subject=replace(BASE, name=name, operations={"decode": function}))
              for name, function in (("advances", advances), ("right", BASE.operations["decode"]))]
    claim = plain_claim("decode", BASE.operations["attention"])
    assert "right" not in {kill.suspect for kill in kills_of(claim, judged, examples=10, seed=1)}


def test_every_operation_of_the_vocabulary_can_be_drawn():
    assert set(OPERATIONS) <= set(ARGUMENTS)
    for name in OPERATIONS:
        given = usual_arguments(name, Sizes(2, 4, 2, 5, 7, 4), normals(0, torch.float32),
                                forward=BASE.operations["attention"])
        OPERATIONS[name].signature.bind(**given)


@pytest.mark.parametrize("operation", [name for name in BASE.operations if name in OPERATIONS])
def test_every_gate_passes_the_base_itself_and_nan_is_off(operation):
    right = BASE.operations[operation]
    nan = replace(BASE, operations={operation: lambda *given, **options: _filled(right(*given, **options))})
    for gate, cases in GATES.items():
        case = next(iter(cases(operation)))
        example = example_of(operation, case, BASE, seed=1)
        assert example.off(BASE) == "", gate
        if not OPERATIONS[operation].returns[0].endswith("?"):
            assert example.off(nan), gate


def _filled(returned):
    tensors = returned if isinstance(returned, tuple) else (returned,)
    return tuple(torch.full_like(x, torch.nan) if x.is_floating_point() else x for x in tensors)


def test_the_comparison_is_recorded(folder, capsys):
    out = folder / "power.json"
    command.main([str(folder / "spec"), "--base", str(ROOT / "impls" / "naive.py"), "--wrong", str(folder / "wrong"),
                  "--examples", "20", "--jobs", "1", "--compare", "--out", str(out)])
    found = json.loads(out.read_text())
    assert list(found["gates"]) == list(GATES)
    assert found["gates"]["allclose on randn"] == ["attention.right", "attention.scores_end_at_64"]
    assert found["plain"]["attention.right"] is None
    assert 1 <= found["plain"]["attention.scale_is_forgotten"] <= 100
    assert "allclose on randn: misses 2 of 3 (67 %)" in capsys.readouterr().out


def test_percentiles_count_what_is_never_killed_as_last():
    assert percentile([3, 1, None, 2], 50) == 2
    assert percentile([3, 1, None, 2], 95) is None
    found = {"suspects": [{"name": n, "family": f} for n, f in (("a", "scale"), ("b", "scale"), ("p", "placebo"))],
             "kills": [{"suspect": "a", "example": 4}], "gates": {"one": ["b", "p"], "two": ["a", "b"]},
             "plain": {"a": 7, "b": None, "p": 1}}
    lines = comparison(found).split("\n")
    assert lines[0] == "one: misses 1 of 2 (50 %)" and lines[2] == "all four together: misses 1 of 2 (50 %)"
    assert lines[3].endswith("claims: median 4, 95th percentile never; 1 of 2 never")
    assert lines[4].endswith("plain arrays: median 7, 95th percentile never; 1 of 2 never")
