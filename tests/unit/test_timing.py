"""Rounds in turns, poison, judgement and tiles of the benchmarks: each does what the numbers claim, and can fail."""

import importlib
import json

import pytest
import torch

try:    # before triton: decides that the kernels are interpreted
    from impls import triton_kernels as kernels
except ImportError as error:
    pytest.skip(f"triton_kernels does not import here: {error}", allow_module_level=True)

from benchmarks import clock, configs, conftest, judge, machine, peers, small_calls
from benchmarks.test_attention import flops


class Steady(clock.DeviceClock):
    """A clock on which every contender takes the seconds that it is given."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.turns = seconds, []

    def timed(self, function):
        def run():
            name = function()
            self.now += self.seconds[name]
            self.turns.append(name)
            return name
        return run


def test_contenders_take_turns_in_rotating_order():
    steady = Steady({"ours": 0.001, "a": 0.002, "b": 0.004})
    race = clock.run(steady, {name: lambda name=name: name for name in ("a", "b", "ours")}, ours="ours",
                     seconds=0.0285, least=1, most=50)
    assert {name: len(values) for name, values in race.seconds.items()} == {"a": 4, "b": 4, "ours": 4}
    assert race.seconds["b"] == pytest.approx([0.004] * 4) and race.seconds["ours"] == pytest.approx([0.001] * 4)
    assert steady.turns[9:] == ["a", "b", "ours", "b", "a", "ours"] * 2, "three warm-up calls each, then turns"
    assert race.results == {"a": "a", "b": "b", "ours": "ours"}


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-9, 5), (1e9, 7)])
def test_rounds_have_a_least_and_a_most(seconds, rounds):
    race = clock.run(Steady({"ours": 0.01}), {"ours": lambda: "ours"}, ours="ours", seconds=seconds, least=5, most=7)
    assert len(race.seconds["ours"]) == rounds


def test_a_contender_that_raises_is_left_out_with_its_reason_and_ours_is_not():
    def fails():
        raise RuntimeError("no such kernel\nand more")
    race = clock.run(Steady({"ours": 0.01}), {"a": fails, "ours": lambda: "ours"}, ours="ours", least=2, most=2)
    assert race.missing == {"a": "RuntimeError: no such kernel"} and list(race.seconds) == ["ours"]
    with pytest.raises(RuntimeError, match="no such kernel"):
        clock.run(Steady({}), {"ours": fails}, ours="ours")


def test_without_a_gpu_the_host_clock_runs_and_returns_the_result():
    host = clock.DeviceClock()
    assert host.timed(lambda: 3)() == 3 and 0 < host() < 1


@pytest.mark.parametrize("complete", [True, False])
def test_poison_shows_what_is_not_written(complete):
    memory = torch.zeros(8)

    def kernel():
        memory[:8 if complete else 7] = 1.0
        return memory
    results = {"ours": kernel()}
    assert clock.poison_and_repeat(kernel, results, "ours"), "the same memory is used again"
    assert bool(results["ours"].isfinite().all()) == complete


def test_poison_that_was_not_met_is_not_claimed():
    kept = []

    def kernel():
        kept.append(torch.ones(8))
        return kept[-1]
    assert not clock.poison_and_repeat(kernel, {"ours": kernel()}, "ours")


def test_quartiles():
    assert clock.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert clock.quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("causal", [False, True])
def test_flop_are_counted_pair_by_pair(causal):
    pairs = sum(not causal or j <= i for i in range(37) for j in range(37))
    assert flops(3, 37, 16, causal) == 3 * pairs * 4 * 16


def test_sampled_rows_have_both_ends():
    for n in (1, 2, 63, 64, 129, 16384):
        rows = judge.sampled(n).tolist()
        assert rows[0] == 0 and rows[-1] == n - 1 and len(rows) == len(set(rows)) <= judge.N_ROWS


@pytest.fixture(scope="module", params=[False, True], ids=["full", "causal"])
def problem(request):
    generator = torch.Generator().manual_seed(1)
    q, k, v, dout = (torch.randn(1, h, 70, 16, generator=generator).bfloat16() for h in (4, 2, 2, 4))
    return q, k, v, *kernels.attention(q, k, v, causal=request.param), dout, request.param


def test_the_forward_is_judged_on_the_rows_that_were_timed(problem):
    q, k, v, out, lse, _, causal = problem
    assert judge.forward_used(q, k, v, out, lse, causal=causal) <= 1
    assert judge.forward_used(q, k, v, kernels.attention(q, k, v, causal=not causal)[0], causal=causal) > 1
    wrong = out.clone()
    wrong[0, 3, 69, 5] += 0.1
    assert judge.forward_used(q, k, v, wrong, causal=causal) > 1
    wrong[0, 3, 69, 5] = float("nan")
    assert judge.forward_used(q, k, v, wrong, causal=causal) == float("inf")


def test_the_backward_is_judged_in_dq_dk_and_dv(problem):
    q, k, v, out, lse, dout, causal = problem
    dq = kernels.attention_backward(q, k, v, out, lse, dout, causal=causal)[0]
    assert judge.backward_used(q, k, v, out, lse, dout, causal=causal, dq=dq) <= 1
    assert judge.backward_used(q, k, v, out, lse, dout, causal=causal, dq=dq * 1.1) > 1
    single = judge.only_sampled(dout, 3)
    assert int((single != 0).any(-1).sum()) == len(judge.sampled(70))
    _, dk, dv = kernels.attention_backward(q, k, v, out, lse, single, causal=causal)
    assert judge.backward_used(q, k, v, out, lse, dout, causal=causal, dk=dk, dv=dv) <= 1
    assert judge.backward_used(q, k, v, out, lse, dout, causal=causal, dk=dk * 1.1, dv=dv) > 1
    assert judge.backward_used(q, k, v, out, lse, dout, causal=causal, dk=dk, dv=dv * 1.1) > 1


def test_a_result_that_is_not_judged_is_refused():
    with pytest.raises(KeyError, match="softmax is not judged by y"):
        judge.used("softmax", {"x": torch.zeros(1, 2)}, {"y": torch.zeros(1, 2)}, dtype=torch.float32)


def test_peers_that_cannot_run_say_why():
    x = torch.zeros(1, 2, 16, 16)
    calls, missing = peers.contenders(lambda name: peers.forward(name, x, x, x, False))
    assert set(calls) | set(missing) == set(peers.NAMES)
    if not torch.cuda.is_available():
        assert "there is none" in missing[peers.FLEX] and missing["cuDNN"]


@pytest.mark.parametrize("which", configs.WHERE)
def test_another_tile_takes_the_place_of_the_shipped_one_and_gives_it_back(which):
    module_name, function_name, _ = configs.WHERE[which]
    module = importlib.import_module(f"impls.triton_kernels.{module_name}")
    shipped = getattr(module, function_name)
    calls = []

    def watched(*arguments, **named):
        answer = shipped(*arguments, **named)
        calls.append(answer)
        return answer

    call, work = configs.problem(which, 16, True, 70, heads=(2, 1))
    before = call()
    setattr(module, function_name, watched)
    try:
        with configs.tiled(which, (16, 16, 2, 1)):
            assert getattr(module, function_name) is not watched
            after = call()
        assert getattr(module, function_name) is watched and calls, "the shipped sizes were asked for and replaced"
    finally:
        setattr(module, function_name, shipped)
    assert work > 0 and all(torch.allclose(a.float(), b.float(), atol=0.1) for a, b in zip(before, after))


def test_of_several_kernels_one_gets_another_tile_and_a_strange_answer_is_refused():
    names, answer = {"BLOCK_M": 16}, ({"BLOCK_M": 64, "D": 1}, {"BLOCK_M": 32})
    assert configs._replaced(answer, names, 0) == ({"BLOCK_M": 16, "D": 1}, {"BLOCK_M": 32})
    assert configs._replaced(answer, names, 1) == ({"BLOCK_M": 64, "D": 1}, {"BLOCK_M": 16})
    with pytest.raises(TypeError, match="no dict with BLOCK_M"):
        configs._replaced(64, names, 0)


def test_every_kernel_is_launched_by_the_small_calls(monkeypatch):
    from triton.runtime import interpreter as stock
    if not kernels.INTERPRETED:
        pytest.skip("the kernels are compiled on this machine")
    launched, launch = set(), stock.GridExecutor.__call__

    def recorded(self, *arguments, **named):
        launched.add(self.fn.__name__)
        return launch(self, *arguments, **named)

    monkeypatch.setattr(stock.GridExecutor, "__call__", recorded)
    assert small_calls.main([]) == 0
    with pytest.raises(RuntimeError, match="store outside of every tensor argument"):
        small_calls.main(["--plant"])
    assert small_calls.kernels_of_the_package() <= launched
    monkeypatch.setattr(kernels, "__all__", [*kernels.__all__, "forgotten"])
    assert small_calls.main([]) == 2


def test_nvidia_smi_is_read(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '1755, 2619, 41, 312.50'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: None)
    assert machine.nvidia_smi(machine.STATE) == {
        "sm_clock_mhz": 1755.0, "memory_clock_mhz": 2619.0, "temperature_c": 41.0, "power_w": 312.5}
    assert machine.nvidia_smi() == {}, "an answer of another length is not guessed at"


def test_measurements_of_different_devices_are_not_compared():
    here = {"device": {"gpu": "NVIDIA H100", "power_limit_w": 700.0, "torch": "2.11"}}
    saved = {"machine_info": {"device": dict(here["device"], torch="2.10")}}
    conftest.pytest_benchmark_compare_machine_info(None, None, here, saved)
    for change in (dict(gpu="NVIDIA H200"), dict(power_limit_w=350.0), dict(mig="Enabled")):
        other = {"machine_info": {"device": saved["machine_info"]["device"] | change}}
        with pytest.raises(pytest.UsageError, match="another device"):
            conftest.pytest_benchmark_compare_machine_info(None, None, here, other)


def test_the_machine_is_described():
    described = machine.describe()
    assert described["torch"] == torch.__version__ and described["triton"] and "gpu" in described


def test_the_sweep_prints_every_tile_and_stores_it(tmp_path, capsys, monkeypatch):
    strange = (48, 32, 4, 2)        # no power of two: Triton refuses it
    monkeypatch.setattr(configs, "sweep", lambda which, d, causal, tokens, tiles, sweep=configs.sweep, **more: sweep(
        which, d, causal, tokens, [*tiles, strange], **more))
    assert configs.main(["--small", "--out", str(tmp_path / "configs.json")]) == 0
    said, stored = capsys.readouterr().out, json.loads((tmp_path / "configs.json").read_text())
    assert stored["small"] and {row["which"] for row in stored["rows"]} == set(configs.WHERE)
    for which in configs.WHERE:
        rows = {row["tile"]: row for row in stored["rows"] if row["which"] == which}
        assert set(rows) == {configs.SHIPPED, "32 x 32, 4 warps, 2 stages", configs.in_words(strange)}
        assert rows[configs.SHIPPED]["tflops"] > 0 and rows[configs.SHIPPED]["differs"] == 0
        assert rows["32 x 32, 4 warps, 2 stages"]["differs"] < 0.01
        assert rows[configs.in_words(strange)]["not_available"]
    assert said.count(configs.SHIPPED) == said.count(configs.in_words(strange)) == 3


def test_without_a_gpu_there_is_nothing_to_tune(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert configs.main([]) == 1 and "no GPU" in capsys.readouterr().err
