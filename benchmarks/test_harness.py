"""What Attest itself costs: examples per second of a softmax claim and of an attention claim on naive, float32.

    python -m pytest benchmarks -p no:xdist --benchmark-columns=median,rounds

`examples_per_second` and `share_inside` (the share of the time spent inside the implementation) are in the extra info
of the saved JSON (`--benchmark-json FILE`) and are printed.
"""

from pathlib import Path

import pytest
import torch

from properties import agree, attention_inputs, cells, claim, given, rows
from properties.subjects import load

ROOT = Path(__file__).parents[1]
EXAMPLES = 500
LEAST = {"softmax": 500, "attention": 150}         # examples per second on two cores of a server CPU


@claim(rows="001-119")
@given(x=rows())
def softmax(impl, x):
    """A row's softmax sums to 1."""
    agree(impl.softmax(x).sum(-1), 1.0)


@claim(rows="001-001")
@given(x=attention_inputs(causal=None, masks=True))
def attention(impl, x):
    """Attention is itself: one call and its budget."""
    agree(impl.attention(*x, **x.options).out, impl.attention(*x, **x.options).out)


@pytest.mark.parametrize("measured", [softmax, attention], ids=lambda made: made.name)
def test_examples_per_second(benchmark, measured, capsys):
    torch.set_num_threads(1)
    naive = load(ROOT / "impls" / "naive.py", name="naive")[0][0]
    column = cells.Column("implementation", naive, "float32")
    outcomes = []

    def run():
        outcomes.append(cells.run(measured, column, cells.Budget(EXAMPLES, seed=len(outcomes))))

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    assert {o.verdict for o in outcomes} == {"holds"}
    seconds = benchmark.stats.stats.median
    inside = sum(o.trial.inside for o in outcomes) / sum(o.seconds for o in outcomes)
    benchmark.extra_info.update(examples_per_second=EXAMPLES / seconds, share_inside=inside,
                                calls_per_example=2 if measured is attention else 1)
    with capsys.disabled():
        print(f"\n{measured.name}: {EXAMPLES / seconds:.0f} examples/s, {100 * inside:.0f} % inside the implementation")
    assert EXAMPLES / seconds >= LEAST[measured.name] / 4, "a quarter of the aim: not noise, a regression"
