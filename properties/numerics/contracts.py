"""Rounding contracts: the list of roundings that a correct implementation may make.

A budget has no free tolerance. It is a theorem about the inputs and one of these lists. An implementation that rounds
more than its contract says is wrong *under that contract*; the remedy is to declare another one, not to widen it.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

from .rounding import FORMATS, LARGEST, SMALLEST_NORMAL, SMALLEST_SUBNORMAL, UNIT_ROUNDOFF


@dataclass(frozen=True)
class Contract:
    """What a correct implementation may round. u is the unit roundoff of `acc`; S a score, M the maximum of its row."""

    name: str = "fused"
    acc: str = "float32"  # format of accumulators, row maxima, denominators and exp
    out: str = "float32"  # format in which the result is stored (lse and merge states are stored in acc)
    scores: str | None = None  # format in which S = q k^T is stored, None where it stays in acc
    n_scores: int = 0  # how often S is rounded to that format (product, scale, bias: 3)
    probs: str | None = None  # format in which the weights are stored before they meet V, None where they stay in acc
    u_in: float = 0.0  # relative rounding of the operands of matrix products (tf32: 2^-11 nearest, 2^-10 truncated)
    pre_fmt: str | None = None  # format in which scale * q is stored before the product, None where it is not
    exact_dot: bool = True  # raw q k^T is formed before a factor that is not a power of two (log2 e) comes in
    mm: float = 1.0  # roundoff of one step of a matrix product, in u; 3 covers tensor cores that truncate
    pre: int = 4  # roundings spent on the scale (its square root on both operands: 4)
    exp_c: float = 4.0  # |log(computed exp / exp)| <= u (exp_c + exp_x |S - M| + exp_m (|S| + |M|))
    exp_x: float = 3.0  # ... the subtraction, the argument times log2 e, that constant
    exp_m: float = 1.0  # ... 1 admits exp2(fma(S, c, -round(M c))) (FlashAttention), 0 is for exp(S - M) alone
    exp_flush: float | None = None  # exp may return 0 below this; None: four times the smallest normal number of acc
    div_c: float = 4.0  # roundings of the division (reciprocal and product: 2, approximate division: 4)
    block: int = 16  # the smallest block of keys of an online algorithm; ceil(n / block) merges
    lse_merge: bool = False  # partial results merged with exp(lse_i - lse), not normalised again
    two_pass: bool = True  # variance from centred values (two passes or Welford); False admits E x^2 - (E x)^2
    half_stats: bool = False  # layer norm's backward is handed mean and 1 / std in the output's format
    ftz: bool = True  # arithmetic may flush subnormal numbers to 0
    r16: float = 1.0  # casts to bfloat16, in roundoffs: 1 to nearest, 2 truncated (Triton's interpreter)

    @cached_property
    def u(self) -> float:
        """Unit roundoff of the accumulator."""
        return UNIT_ROUNDOFF[self.acc]

    @cached_property
    def eta(self) -> float:
        """Absolute error of one operation in the accumulator's underflow range."""
        return (SMALLEST_NORMAL if self.ftz else SMALLEST_SUBNORMAL)[self.acc]

    @cached_property
    def flush(self) -> float:
        """exp may return 0 where its value is below this."""
        return 4.0 * SMALLEST_NORMAL[self.acc] if self.exp_flush is None else self.exp_flush

    @cached_property
    def out_floor(self) -> float:
        """Absolute error of storing a result: half precision keeps its subnormals, the wider formats may flush them."""
        keeps = not self.ftz or self.out == "float16"
        return (SMALLEST_SUBNORMAL if keeps else SMALLEST_NORMAL)[self.out]

    @cached_property
    def score_limit(self) -> float:
        """Scores below this cannot overflow, wherever an implementation puts the scale: a quarter of the largest."""
        return 0.25 * LARGEST[self.scores or self.acc]

    def roundoff(self, fmt: str) -> float:
        """Relative error of one cast to `fmt`."""
        return UNIT_ROUNDOFF[fmt] * (self.r16 if fmt == "bfloat16" else 1.0)

    def merges(self, n_keys: int) -> int:
        """How many blocks an online algorithm may cut the keys into."""
        return -(-n_keys // self.block)


PRESETS = {
    "fused": "scores and sums in float32; the weights are cast to the input's type before they meet V (FlashAttention)",
    "fp32-inside": "as fused, and the weights stay in float32 too: only the result is rounded to the input's type",
    "naive": "scores and weights are stored in the input's type, three roundings for the scores (eager PyTorch)",
    "prescaled": "as naive, and scale * q is stored in the input's type before the product",
    "tf32": "as fused, and float32 operands of matrix products are cut to 10 bits on the way in",
    "truncating": "as fused, and casts to bfloat16 truncate (Triton's interpreter)",
}
_ALIASES = {"float": "float32", "double": "float64", "half": "float16"}
_FORMAT_FIELDS = ("acc", "out", "scores", "probs", "pre_fmt")


def contract_for(rounding: str | dict, dtype: str, *, device: str = "cpu") -> Contract:
    """The contract of an implementation that declares `rounding`, for inputs of `dtype`.

    `rounding` is the name of a preset, or a dict of fields of Contract that override those of the preset under its key
    "preset" ("fused" where it has none). On device "cuda" the steps of matrix products have three roundoffs.
    Raises ValueError for an unknown preset, field or format, and lists the legal ones.
    """
    overrides = {"preset": rounding} if isinstance(rounding, str) else dict(rounding)
    preset = overrides.pop("preset", "fused")
    legal = {field.name for field in fields(Contract)} - {"name"}
    if unknown := sorted(set(overrides) - legal):
        raise ValueError(f"unknown field of a rounding contract: {', '.join(unknown)}; "
                         f"legal are preset, {', '.join(sorted(legal))}")
    for name in _FORMAT_FIELDS:
        if overrides.get(name) is not None and overrides[name] not in FORMATS:
            raise ValueError(f"{name} = {overrides[name]!r} is no format; legal are {', '.join(FORMATS)}")
    contract = _preset(preset, dtype, device.split(":")[0])
    return replace(contract, name=f"{contract.name}*", **overrides) if overrides else contract


@lru_cache(maxsize=None)
def _preset(preset: str, dtype: str, device: str) -> Contract:
    if preset not in PRESETS:
        raise ValueError(f"unknown rounding contract {preset!r}; legal are {', '.join(PRESETS)}")
    dtype = _ALIASES.get(dtype, dtype.removeprefix("torch."))
    if dtype not in FORMATS:
        raise ValueError(f"no rounding contract for dtype {dtype!r}; legal are {', '.join(FORMATS)}")
    half = dtype in ("float16", "bfloat16")
    acc = "float64" if dtype == "float64" else "float32"
    contract = Contract(preset, acc=acc, out=dtype, probs=dtype if half else None, mm=3.0 if device == "cuda" else 1.0)
    if preset == "fp32-inside":
        contract = replace(contract, probs=None)
    if preset in ("naive", "prescaled") and half:
        contract = replace(contract, scores=dtype, n_scores=3, pre_fmt=dtype if preset == "prescaled" else None)
    if preset == "tf32" and dtype == "float32":
        contract = replace(contract, u_in=2.0**-10, mm=max(contract.mm, 2.0))
    if preset == "truncating":
        contract = replace(contract, r16=2.0)
    return contract
