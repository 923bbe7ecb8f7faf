"""Special values are judged by class, conventions decide what is free, and wrong contracts are explained."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.numerics import (
    ANY,
    FIN,
    KIND_NAMES,
    NAN,
    NONFINITE,
    PRESETS,
    SUPPORTED,
    ZERO,
    ZERO_OR_NAN,
    Exact,
    contract_for,
    evaluate,
    violations,
)
from tests.unit.references import (
    CONVENTIONS,
    DTYPES,
    INF,
    numbers,
    online,
    online_backwards,
    online_base2,
    sequential,
    textbook,
    to_torch,
)

FP32 = contract_for("fused", "float32")
NAN_ROWS = CONVENTIONS | {"empty_row": "nan"}


def attend(q, k, v, contract=FP32, conventions=CONVENTIONS, **more):
    """Attention of one head; rows of q, k and v as lists."""
    q, k, v = (np.asarray(x, dtype=float)[None, None] for x in (q, k, v))
    defaults = dict(causal=False, mask=None, scale=1.0, window=None, bias=None)
    return evaluate("attention", dict(q=q, k=k, v=v) | defaults | more, contract, conventions)


def kinds(exact):
    """The classes of one quantity, without the leading dims."""
    kind = np.zeros(exact.value.shape, int) if exact.kind is None else exact.kind
    return kind[0, 0].tolist()


nan = math.nan
BASE = dict(q=[[1.0]], k=[[1.0], [2.0]], v=[[1.0, 5.0], [2.0, 6.0]])
CASES = {
    "all finite": (BASE, [FIN, FIN], FIN),
    "NaN query": (BASE | {"q": [[nan]]}, [NAN, NAN], NAN),
    "NaN key": (BASE | {"k": [[1.0], [nan]]}, [NAN, NAN], NAN),
    "+inf score": (BASE | {"k": [[1.0], [INF]]}, [NAN, NAN], NONFINITE),
    "-inf score": (BASE | {"k": [[1.0], [-INF]]}, [FIN, FIN], FIN),
    "all scores -inf": (BASE | {"q": [[-INF]]}, [ZERO_OR_NAN] * 2, NONFINITE),
    "NaN value": (BASE | {"v": [[nan, 5.0], [2.0, 6.0]]}, [NAN, FIN], FIN),
    "infinite value": (BASE | {"v": [[INF, 5.0], [2.0, -INF]]}, [NONFINITE, NONFINITE], FIN),
    "NaN value of a key of weight 0": (BASE | {"k": [[1.0], [-INF]], "v": [[1.0, 5.0], [nan, 6.0]]}, [ANY, FIN], FIN),
    "score may overflow": (BASE | {"q": [[1e19]], "k": [[2e19], [1.0]]}, [ANY, ANY], ANY),
    "sums may overflow": (BASE | {"v": [[3e38, 5.0], [3e38, 6.0]]}, [ANY, FIN], FIN),
    "hidden NaN key": (BASE | {"k": [[1.0], [nan]], "mask": np.array([True, False])}, [ANY, ANY], ANY),
    "hidden NaN value": (BASE | {"v": [[1.0, 5.0], [nan, 6.0]], "mask": np.array([True, False])}, [ANY, FIN], FIN),
    "hidden large key": (BASE | {"k": [[1.0], [1e30]], "mask": np.array([True, False])}, [FIN, FIN], FIN),
    "bias NaN": (BASE | {"bias": np.array([0.0, nan])}, [NAN, NAN], NAN),
    "bias +inf": (BASE | {"bias": np.array([0.0, INF])}, [NAN, NAN], NONFINITE),
    "lowest bias hides": (BASE | {"bias": np.array([0.0, -3.4e38])}, [FIN, FIN], FIN),
    "lowest bias everywhere": (BASE | {"bias": np.array([-3.4e38, -3.4e38])}, [ANY, ANY], ANY),
    "scale 0": (BASE | {"scale": 0.0}, [FIN, FIN], FIN),
}


@pytest.mark.parametrize("name", CASES)
def test_class_of_every_special_value(name):
    arguments, out_kinds, lse_kind = CASES[name]
    out, lse = attend(**arguments)
    assert [KIND_NAMES[i] for i in kinds(out)[0]] == [KIND_NAMES[i] for i in out_kinds]
    assert KIND_NAMES[kinds(lse)[0]] == KIND_NAMES[lse_kind]
    finite = np.array(kinds(out)) == FIN
    assert (out.budget[0, 0][finite] > 0).all()


def test_finite_elements_beside_special_ones_keep_exact_values():
    whole, beside = attend(**BASE)[0], attend(**CASES["NaN value"][0])[0]
    assert whole.value[0, 0, 0, 1] == beside.value[0, 0, 0, 1] == pytest.approx(5 + 1 / (1 + math.exp(-1)))
    dropped = attend(**CASES["-inf score"][0])[0]
    assert dropped.value[0, 0, 0].tolist() == [1.0, 5.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_implementations_meet_the_classes_of_injected_values(dtype):
    rng, contract, seen = np.random.default_rng(7), contract_for("fused", dtype), set()
    large = [30000.0, 65000.0] if dtype == "float16" else [1e30, 3e38]
    special = [nan, INF, -INF, 0.0, 6e4, 1e-40, *large]
    for i in range(120):
        n, d = int(rng.choice([1, 2, 5, 16, 17, 33])), int(rng.choice([1, 4]))
        arrays = [rng.standard_normal((1, 1, length, d)) for length in (2, n, n)]
        for x in rng.choice(3, rng.integers(0, 3)):
            arrays[x].flat[rng.integers(arrays[x].size)] = rng.choice(special)
        bias = None if i % 2 else np.where(rng.random((2, n)) < 0.6, 0.0, -INF)
        if bias is not None and i % 3 == 0:
            bias.flat[rng.integers(bias.size)] = rng.choice([nan, INF, -1e4, -3e38, 3e38])
        tensors, tensor_bias = [to_torch(x, dtype) for x in arrays], to_torch(bias, dtype)
        arguments = dict(zip("qkv", map(numbers, tensors))) | {"scale": 0.5, "bias": numbers(tensor_bias)}
        exact = evaluate("attention", arguments, contract, CONVENTIONS)
        for e in exact:
            seen |= {FIN} if e.kind is None else set(e.kind.flat)
        for implementation in (textbook, sequential, online, online_base2, online_backwards):
            for got, e in zip(implementation(*tensors, 0.5, tensor_bias), exact):
                assert (violations(numbers(got), e) <= 1).all(), (implementation.__name__, i, e.name)
    assert seen >= {FIN, NAN, NONFINITE, ANY}


def test_empty_rows_follow_the_convention():
    hidden = dict(BASE, q=[[1.0], [1.0]], mask=np.array([[True, True], [False, False]]))
    out, lse = attend(**hidden)
    assert out.kind is None and lse.kind is None
    assert out.value[0, 0, 1].tolist() == [0, 0] and out.budget[0, 0, 1].tolist() == [0, 0]
    assert lse.value[0, 0, 1] == -INF and lse.budget[0, 0, 1] == 0
    out, lse = attend(**hidden, conventions=NAN_ROWS)
    assert kinds(out) == [[FIN, FIN], [NAN, NAN]] and kinds(lse) == [FIN, NONFINITE]
    for operation, arguments in (("softmax", {"x": np.full((2, 3), -INF)}),
                                 ("masked_softmax", {"scores": np.ones((2, 3)), "keep": np.zeros(3, bool)})):
        (p,) = evaluate(operation, arguments, FP32, CONVENTIONS)
        assert not p.value.any() and not p.budget.any() and p.kind is None
        (p,) = evaluate(operation, arguments, FP32, NAN_ROWS)
        assert (p.kind == NAN).all()


def test_causal_alignment_follows_the_convention():
    rows = dict(q=[[0.0]], k=[[0.0]] * 3, v=[[1.0], [2.0], [6.0]], causal=True)
    assert attend(**rows)[0].value.item() == 3
    assert attend(**rows, conventions=CONVENTIONS | {"causal": "top-left"})[0].value.item() == 1
    assert attend(**rows | {"window": 2})[0].value.item() == 4


@pytest.mark.parametrize(
    "b, hq, hkv, lq, lk, d",
    [(0, 2, 1, 3, 4, 2), (1, 2, 1, 0, 4, 2), (1, 4, 2, 3, 0, 2), (1, 2, 2, 2, 3, 0), (1, 0, 0, 2, 3, 2)],
)
def test_zero_lengths(b, hq, hkv, lq, lk, d):
    q, k, v = np.ones((b, hq, lq, d)), np.ones((b, hkv, lk, d)), np.ones((b, hkv, lk, 5))
    arguments = dict(q=q, k=k, v=v, causal=False, mask=None, scale=None, window=None, bias=None)
    out, lse = evaluate("attention", arguments, FP32, CONVENTIONS)
    assert out.value.shape == (b, hq, lq, 5) and lse.value.shape == (b, hq, lq)
    assert (out.value == (lk > 0)).all() and (violations(out.value, out) == 0).all()
    weights, = evaluate("attention_weights", arguments, FP32, CONVENTIONS)
    assert weights.value.shape == (b, hq, lq, lk)
    gradients = evaluate(
        "attention_backward",
        arguments | dict(out=out.value, lse=lse.value, dout=np.ones(out.value.shape)),
        FP32,
        CONVENTIONS,
    )
    assert [g.value.shape for g in gradients] == [q.shape, k.shape, v.shape]


def test_scores_of_classes():
    x = np.array([[0.0, nan], [0.0, INF], [-INF, -INF], [1e38, 0.0], [0.0, -INF], [-3e38, 0.0]])
    (p,), (lse,) = (evaluate(name, {"x": x}, FP32, CONVENTIONS) for name in ("softmax", "log_sum_exp"))
    assert p.kind[:, 0].tolist() == [NAN, NAN, FIN, ANY, FIN, FIN]
    assert lse.kind.tolist() == [NAN, NONFINITE, FIN, ANY, FIN, FIN]
    assert p.value[2].tolist() == p.budget[2].tolist() == [0, 0]
    assert p.value[4].tolist() == p.value[5, ::-1].tolist() == [1, 0] and p.budget[4, 1] == 0
    keep = np.array([True, False])
    (p,) = evaluate(
        "masked_softmax", {"scores": np.array([[0.0, 1.0], [0.0, nan], [nan, 0.0]]), "keep": keep}, FP32, CONVENTIONS
    )
    assert p.kind.tolist() == [[FIN, FIN], [ANY, ANY], [NAN, ZERO_OR_NAN]]


def test_merging_special_states():
    m, l = np.array([0.0, -INF, nan]), np.array([1.0, 0.0, 1.0])
    acc = np.array([[nan, 1.0], [0.0, 0.0], [1.0, 1.0]])
    zero, one = np.zeros(3), np.ones(3)
    out, lse = evaluate("merge", dict(m1=m, l1=l, acc1=acc, m2=zero, l2=one, acc2=np.ones((3, 2))), FP32, CONVENTIONS)
    assert out.kind.tolist() == [[NAN, FIN], [FIN, FIN], [NAN, NAN]] and lse.kind.tolist() == [FIN, FIN, NAN]
    assert out.value[1].tolist() == [1, 1] and lse.value[1] == 0
    empty = dict(m1=np.full(1, -INF), l1=np.zeros(1), acc1=np.zeros((1, 2)))
    out, lse = evaluate("merge", empty | {f"{name[:-1]}2": x for name, x in empty.items()}, FP32, CONVENTIONS)
    assert out.value.tolist() == [[0, 0]] and not out.budget.any() and lse.value[0] == -INF and lse.budget[0] == 0


def test_violations_measure_distance_and_class():
    exact = Exact("x", np.array([1.0, 1.0, 0.0, -INF]), np.array([0.5, 0.0, 0.0, 0.0]))
    assert violations([1.25, 1.0, 0.0, -INF], exact).tolist() == [0.5, 0, 0, 0]
    assert violations([2.0, 1.5, -1e-300, INF], exact).tolist() == [2, INF, INF, INF]
    assert violations([nan] * 4, exact).tolist() == [INF] * 4
    kind = np.array([NAN, ZERO, NONFINITE, ZERO_OR_NAN, ANY, FIN], np.int8)
    exact = Exact("x", np.zeros(6), np.ones(6), kind)
    assert violations([nan, 0.0, INF, nan, 7.0, 0.5], exact).tolist() == [0, 0, 0, 0, 0, 0.5]
    assert violations([1.0, nan, 1.0, INF, nan, nan], exact).tolist() == [INF, INF, INF, INF, 0, INF]


def test_movement_is_exact():
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    for operation, arguments, expected in (
        ("repeat_kv", dict(x=x, n_rep=2), x[:, [0, 0, 1, 1]]),
        ("merge_heads", dict(x=x), np.concatenate([x[:, 0], x[:, 1]], -1)),
        ("split_heads", dict(x=x[0], h=2), np.stack([x[0, :, :, :2], x[0, :, :, 2:]], 1)),
        ("causal_mask", dict(lq=2, lk=3), [[1, 1, 0], [1, 1, 1]]),
        ("sliding_window_mask", dict(lq=2, lk=3, window=1), [[0, 1, 0], [0, 0, 1]]),
        ("padding_mask", dict(lens=[0, 2], lk=3), [[[[0, 0, 0]]], [[[1, 1, 0]]]]),
    ):
        (exact,) = evaluate(operation, arguments, FP32, CONVENTIONS)
        assert exact.value.tolist() == np.asarray(expected, float).tolist()
        assert not exact.budget.any() and exact.kind is None


@pytest.mark.parametrize(
    "declared, message",
    [
        ("fusd", "unknown rounding contract 'fusd'; legal are fused"),
        ({"preset": "x"}, "unknown rounding contract 'x'"),
        ({"atol": 1e-3}, "unknown field of a rounding contract: atol; legal are preset, acc, block"),
        ({"probs": "float8"}, "probs = 'float8' is no format; legal are float64, float32"),
        ({"name": "x"}, "unknown field"),
    ],
)
def test_a_wrong_contract_is_explained(declared, message):
    with pytest.raises(ValueError, match=message):
        contract_for(declared, "float32")


def test_a_contract_for_an_unknown_dtype_is_explained():
    with pytest.raises(ValueError, match="no rounding contract for dtype 'int8'; legal are float64"):
        contract_for("fused", "int8")


def test_presets_and_overrides():
    assert {contract_for(name, dtype).out for name in PRESETS for dtype in DTYPES} == set(DTYPES)
    assert contract_for("fused", "float64").acc == "float64" and contract_for("fused", "bfloat16").acc == "float32"
    assert contract_for("fused", "bfloat16", device="cuda:0").mm == 3
    coarse = contract_for({"preset": "naive", "block": 8}, "float16")
    assert coarse == contract_for({"preset": "naive", "block": 8}, "float16") and coarse.scores == "float16"
    assert contract_for({"block": 8}, "float16").merges(17) == 3
    assert contract_for("naive", "float32") != contract_for("tf32", "float32")


@given(st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
def test_a_contract_that_admits_more_has_the_larger_budget(dtype, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (numbers(to_torch(rng.standard_normal((1, 1, n, 8)) * rng.choice([1, 8]), dtype)) for n in (3, 17, 17))
    arguments = dict(q=q, k=k, v=v, causal=False, mask=None, scale=0.3, window=None, bias=None)
    budgets = [evaluate("attention", arguments, contract_for(preset, dtype), CONVENTIONS)[0].budget
               for preset in ("fp32-inside", "fused", "naive", "prescaled")]
    assert all((a <= b).all() for a, b in zip(budgets, budgets[1:]))


def test_the_table_of_operations_is_complete():
    assert SUPPORTED >= {"softmax", "masked_softmax", "attention_weights", "softmax_backward", "log_sum_exp",
                         "attention", "split_kv", "merge_lse", "merge", "attention_backward", "decode", "layer_norm"}


@pytest.mark.parametrize("off", [0.0, -30.0, -95.0, -2000.0])
def test_a_backward_pass_is_not_blamed_for_an_lse_that_is_far_off(off):
    rng = np.random.default_rng(0)
    draw = lambda *shape: torch.tensor(rng.normal(size=shape), dtype=torch.bfloat16)                       # noqa: E731
    q, k, v = 30 * draw(1, 1, 3, 4), 30 * draw(1, 1, 5, 4), draw(1, 1, 5, 4)
    out, dout = draw(1, 1, 3, 4), draw(1, 1, 3, 4)
    lse = (torch.logsumexp(q.double() @ k.double().mT / 2, -1) + off).float()
    weights = torch.exp((q.float() @ k.float().mT) / 2 - lse[..., None])               # infinite where lse is too small
    dp = dout.float() @ v.float().mT
    ds = weights * (dp - (dout.float() * out.float()).sum(-1, keepdim=True))
    got = [(ds @ k.float() / 2), (ds.mT @ q.float() / 2), (weights.mT @ dout.float())]
    received = {name: x.double().numpy() for name, x in dict(q=q, k=k, v=v, out=out, lse=lse, dout=dout).items()}
    exact = evaluate("attention_backward", received | {"causal": False, "mask": None, "scale": None},
                     contract_for("fused", "bfloat16"), {"causal": "bottom-right", "empty_row": "zero"})
    for value, quantity in zip(got, exact, strict=True):
        assert violations(value.bfloat16().double().numpy(), quantity).max() <= 1
