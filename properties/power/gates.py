"""Four gates by which kernels are usually accepted, as the field writes them, to set beside the claims.

A gate is a sequence of tests: arguments of a stated size, drawn from a normal distribution, and a comparison with a
right implementation in float64, its result rounded.  It passes an implementation if nothing that it looks at is off;
an exception and an unexpected NaN are.  The tolerances are those of the gates' authors.  Where a practice leaves
something open, it is given the benefit: every returned tensor is compared, and the caches that were written.

A gate brings its own dtypes.  Those that a suspect declares say where its mistake shows, not what it takes: most
declare float32 alone, and a gate that tests half types would never meet them.  Only an exception in a dtype that is
not declared is no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch.overrides import TorchFunctionMode

from ..operations import OPERATIONS, Operation
from ..subjects import Subject, load
from .kills import Kill
from .matrix import Places
from .suspects import Suspect
from .usual import OPTIONS, Sizes, normals, usual_arguments

HALF = ("float16", "bfloat16")
Close = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]    # (got, expected, rough): AssertionError if not


@dataclass(frozen=True)
class Case:
    """One test of a gate; of the `options` those are given that the operation has."""

    sizes: Sizes
    dtype: str
    close: Close
    options: tuple[str, ...] = ()
    layout: str = "contiguous"


# ------------------------------------------------------------------------------------------------------- the four gates

def allclose_on_randn(operation: str) -> Iterator[Case]:
    """One fixed shape, causal or not, within 1e-2: Triton's tutorial on fused attention (06, `test_op`) and the many
    kernels that began as a copy of it."""
    for dtype, causal in product(("float32", "float16"), ((), ("causal",))):
        yield Case(Sizes(batch=2, heads=4, kv_heads=4, lq=64, lk=64, d=32), dtype, within(1e-2), causal)


def careful_grid(operation: str) -> Iterator[Case]:
    """Ragged lengths, grouped heads, causal, a mask and three dtypes, within 1e-3 (half types 1e-2), forward and
    backward: the parametrised tests of FlashInfer (`tests/attention/test_batch_prefill_kernels.py`) and the like.
    Every other option is tried once per dtype."""
    shapes = (64, 64), (100, 100), (128, 128), (100, 128)
    options = (), ("causal",), ("mask",), ("causal", "mask")
    for (lq, lk), kv_heads, chosen, dtype in product(shapes, (4, 2), options, ("float32", *HALF)):
        yield Case(Sizes(2, 4, kv_heads, lq, lk, 32), dtype, _by_dtype(dtype), chosen)
    for option, dtype in product(OPTIONS, ("float32", *HALF)):
        yield Case(Sizes(2, 4, 2, 100, 128, 32), dtype, _by_dtype(dtype), (option,))


def random_shapes(operation: str, *, count: int = 100) -> Iterator[Case]:
    """A hundred random shapes, memory layouts, dtypes and options, within 1e-3 (half types 1e-2): xFormers
    (`tests/test_mem_eff_attention.py`) adds random shapes and views of packed tensors to its grid."""
    rng = torch.Generator().manual_seed(0)

    def one_of(*choices):
        return choices[int(torch.randint(len(choices), (), generator=rng))]

    for _ in range(count):
        heads, kv_heads = one_of((1, 1), (2, 2), (3, 1), (4, 2), (6, 2), (6, 3))
        sizes = Sizes(one_of(1, 2, 3), heads, kv_heads, one_of(*range(1, 151)), one_of(*range(1, 151)),
                      one_of(8, 16, 24, 32, 40, 64, 80), one_of(0, 0, 16, 40))
        options = tuple(name for name in OPTIONS if one_of(True, False, False))
        dtype = one_of("float32", *HALF)
        yield Case(sizes, dtype, _by_dtype(dtype), options, one_of("contiguous", "transposed", "sliced"))


def flash_attention_rule(operation: str) -> Iterator[Case]:
    """The error is at most twice that of a naive implementation in the same half type (three times in a gradient), on
    the lengths of flash-attention's `tests/test_flash_attn.py`; its larger ones are left out, and so are dropout and
    softcap.  Local attention is our window, and ALiBi is a bias."""
    lengths = (113, 203), (128, 217), (113, 211), (108, 256), (256, 512), (512, 256), (64, 128)
    heads, dims = ((6, 6), (6, 2), (6, 1)), (32, 64, 59, 96)
    close = naive_error_times(3 if operation.endswith("_backward") else 2)
    for number, ((lq, lk), chosen, dtype) in enumerate(product(lengths, ((), ("causal",)), HALF)):
        extra = ((), ("window",), ("bias",))[number // 2 % 3]
        yield Case(Sizes(1, *heads[number % 3], lq, lk, dims[number // 2 % 4]), dtype, close, (*chosen, *extra))


GATES: dict[str, Callable[[str], Iterator[Case]]] = {
    "allclose on randn": allclose_on_randn, "careful grid": careful_grid, "random shapes": random_shapes,
    "flash-attention's 2x rule": flash_attention_rule}


def within(tolerance: float) -> Close:
    """Both tolerances of `torch.testing.assert_close`, which looks at shape and dtype too; NaN is never close."""
    return lambda got, expected, rough: torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def _by_dtype(dtype: str) -> Close:
    return within(1e-2 if dtype in HALF else 1e-3)


def naive_error_times(factor: float, *, atol: float = 1e-5) -> Close:
    """The largest error is at most `factor` times that of the naive implementation, plus flash-attention's 1e-5."""
    def close(got, expected, rough):
        error, naive = _largest_error(got, expected), _largest_error(rough, expected)
        assert error <= factor * naive + atol, f"largest error {error:.2g}, naive {naive:.2g}"
    return close


def _largest_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    got, expected = got.double(), expected.double()
    return float(torch.where(got == expected, 0.0, (got - expected).abs()).max()) if got.numel() else 0.0


# ------------------------------------------------------------------------------------------------------- one comparison

class _NothingWidened(TorchFunctionMode):
    """Half-precision tensors stay so when float32 is asked for: a formula computed naively, in its inputs' dtype."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to and args[1:] == (torch.float32,) and args[0].itemsize == 2:
            return args[0]
        return function(*args, **kwargs or {})


@dataclass(frozen=True)
class Example:
    """Arguments as an implementation receives them, what a right one returns, and what a naive one in their dtype."""

    operation: Operation
    case: Case
    arguments: dict
    expected: dict
    rough: dict

    def off(self, subject: Subject) -> str:
        """What the gate finds wrong with an implementation, or an empty string."""
        accepted, required = subject.keywords[self.operation.name], self.operation.required
        if accepted is not None and not accepted.issuperset(set(self.arguments) - set(required)):
            return ""                                              # it has no such keyword: the test would not be there
        try:
            got = _results(self.operation, subject.operations[self.operation.name], self.arguments, self.case.layout)
            for name, expected in (self.expected | _given_what_was_drawn(self.operation, self.arguments, got)).items():
                if name in got:                                                      # a plain out is legitimate
                    self.case.close(got[name], expected, self.rough[name])
        except NotImplementedError:
            return ""
        except Exception as error:
            if not isinstance(error, AssertionError) and self.case.dtype not in subject.dtypes:
                return ""
            return f"{type(error).__name__}: {str(error).strip()[:200]}"
        return ""


def example_of(operation: str, case: Case, base: Subject, *, seed: int) -> Example:
    """Arguments for the case, and what `base` makes of them: in float64, then rounded; and in the case's dtype."""
    row, dtype, right = OPERATIONS[operation], getattr(torch, case.dtype), base.operations[operation]
    drawn = usual_arguments(operation, case.sizes, normals(seed, dtype), options=case.options,
                            forward=base.operations["attention"])
    at_least_float32 = torch.promote_types(dtype, torch.float32)
    arguments = {name: x.to(dtype) if name in row.tensors else x.to(at_least_float32) if name in row.states else x
                 for name, x in drawn.items()}
    wide = {name: x.double() if name in row.tensors | row.states else x for name, x in arguments.items()}
    narrow = row.tensors | row.states if row.tensors else ()
    with _NothingWidened():
        rough = _results(row, right, {n: x.to(dtype) if n in narrow else x for n, x in arguments.items()})
    stored = {name.strip("+?"): torch.bool if name.endswith("?") else at_least_float32 if name.endswith("+") else dtype
              for name in row.returns}
    expected = {name: x.to(stored.get(name, at_least_float32 if row.states and not row.tensors else dtype))
                for name, x in _results(row, right, wide).items()}
    return Example(row, case, arguments, expected, rough)


def _results(operation: Operation, function: Callable, arguments: dict, layout: str = "contiguous") -> dict:
    """What a call returns, and the arguments it writes, by name; a state that `merge` returns as acc / l, m + log l."""
    native = {name: _laid(x, layout) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    returned = function(*(native[name] for name in operation.required),
                        **{name: x for name, x in native.items() if name not in operation.required})
    tensors = returned if isinstance(returned, tuple) else (returned,)
    if len(tensors) > len(operation.returns):
        raise ValueError(f"returned {len(tensors)} values, expected {len(operation.returns)}")
    got = {name.strip("+?"): x for name, x in zip(operation.returns, tensors)}
    if operation.name == "merge":
        got = {"out": got["acc"] / got["l"][..., None], "lse": got["m"] + torch.log(got["l"])}
    return got | {name: native[name] for name in operation.writes}


def _laid(x: torch.Tensor, layout: str) -> torch.Tensor:
    """A copy in memory of its own: as it is, with its heads innermost but one, or as part of a wider tensor."""
    if layout == "transposed" and x.ndim == 4:
        return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    if layout == "sliced" and x.ndim > 1:
        return torch.cat([x, x], -1)[..., :x.shape[-1]]
    return x.clone(memory_format=torch.contiguous_format)


def _given_what_was_drawn(operation: Operation, arguments: dict, got: dict) -> dict:
    """Dropout draws as it likes: its own mask is right if its share is, six deviations wide, and decides its output."""
    if operation.name != "dropout":
        return {}
    x, p, mask = arguments["x"], arguments["p"], got["mask"]
    share, width = float(mask.double().mean()), 6 * (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(share - (1 - p)) <= width, f"keeps {share:.2g} at p = {p}"
    return {"y": torch.where(mask, x.double() / (1 - p), 0.0).to(x.dtype), "mask": mask}


# ------------------------------------------------------------------------------------------------------ all comparisons

@dataclass(frozen=True)
class ByGate:
    """A gate as a judge of the suspects that replace one operation; see `matrix.run`."""

    gate: str
    operation: str
    base: Subject

    @property
    def name(self) -> str:
        return f"{self.gate}::{self.operation}"

    def judges(self, suspect: Suspect) -> bool:
        return self.operation in suspect.replaced

    def kills_of(self, suspects, *, seed: int = 0, excluded=(), watch=lambda suspect, dtype, example: None,
                 **_) -> list[Kill]:
        """Whom it catches, once per suspect: with which of its cases, and why."""
        gone = {suspect for suspect, _ in excluded}                     # took their process along: caught already
        living, kills = [s for s in suspects if s.name not in gone], []
        for number, case in enumerate(GATES[self.gate](self.operation), 1):
            if not living:
                break
            example = example_of(self.operation, case, self.base, seed=1000 * seed + number)
            for suspect in list(living):
                watch(suspect.name, case.dtype, number)
                off = example.off(suspect.subject)
                if off:
                    kills.append(Kill(self.name, suspect.name, case.dtype, "off", number, off))
                    living.remove(suspect)
        return kills


def by_gates(places: Places) -> list[ByGate]:
    """Every gate on every operation that `base` has."""
    (base, *_), _ = load(places.base, name=places.base.stem)
    return [ByGate(gate, operation, base) for gate in GATES for operation in base.operations]
