"""PyTorch's own: `scaled_dot_product_attention`, each backend by itself, and the functions of `torch.nn.functional`.

The function hides keys by one tensor, bool or additive, and its `is_causal` is aligned top-left. So causal, window,
mask and bias are combined into one tensor here, and `is_causal` is used only where both alignments are the same.
"""
from functools import reduce

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = ("float64", "float32", "float16", "bfloat16")
HALF = ("float16", "bfloat16")
CAPABILITY = torch.backends.cpu.get_cpu_capability()
INF = float("inf")


# -------------------------------------------------------------------------------------------------------- attention

def _is_causal(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """Whether the options say no more than `is_causal` does."""
    return bool(causal) and mask is window is bias is None and q.shape[2] == k.shape[2]


def _visible(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
    """Which key each query sees, bool (B, Hq, Lq, Lk), or None if all do."""
    lq, lk = q.shape[2], k.shape[2]
    i, j = torch.arange(lq, device=q.device)[:, None] + lk - lq, torch.arange(lk, device=q.device)
    conditions = [mask] if mask is not None else []
    conditions += [j <= i] if causal or window is not None else []
    conditions += [j > i - window] if window is not None else []
    return reduce(torch.logical_and, conditions).expand(*q.shape[:3], lk) if conditions else None


def _attn_mask(q, k, v, **options):
    """All that hides or shifts scores, as the one tensor that the function takes: bool, additive or None."""
    visible, bias = _visible(q, k, v, **options), options.get("bias")
    if bias is None:
        return visible
    bias = bias.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    return bias if visible is None else torch.where(visible, bias, -INF)


def _sdpa(backend, q, k, v, **options):
    if backend is SDPBackend.FLASH_ATTENTION and q.shape[-1] == k.shape[-1] != v.shape[-1]:
        raise NotImplementedError("the flash backend needs values as wide as queries and keys")
    if backend is not SDPBackend.MATH and any(x.stride(-1) != 1 for x in (q, k, v)):
        raise NotImplementedError("the fused backends need a last dimension of stride 1")
    is_causal = _is_causal(q, k, v, **options)
    attn_mask = None if is_causal else _attn_mask(q, k, v, **options)
    try:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal,
                                                  scale=options.get("scale"), enable_gqa=q.shape[1] != k.shape[1])
    except RuntimeError as error:
        if q.is_cuda and "No available kernel" in str(error):
            raise NotImplementedError(f"{backend.name} has no kernel for this combination of inputs") from None
        raise


def _flash_lse(q, k, v, **options):
    """The log-sum-exp that the CPU's flash kernel keeps for its backward; the public function does not return it."""
    if 0 in (*q.shape, k.shape[2]):
        return torch.full(q.shape[:3], -INF, dtype=torch.promote_types(q.dtype, torch.float32))
    is_causal = _is_causal(q, k, v, **options)
    mask = None if is_causal else _attn_mask(q, k, v, **options)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -INF)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, is_causal=is_causal, attn_mask=mask, scale=options.get("scale"))[1]


def _backend(backend, **declared):
    """One backend as a variant: its operations and what it declares about itself."""
    has_lse = backend is SDPBackend.FLASH_ATTENTION and DEVICE == "cpu"

    def attention(q, k, v, causal=False, mask=None, scale=None, window=None, bias=None):
        options = dict(causal=causal, mask=mask, scale=scale, window=window, bias=bias)
        out = _sdpa(backend, q, k, v, **options)
        return (out, _flash_lse(q, k, v, **options)) if has_lse else out

    def attention_backward(q, k, v, out, lse, dout, causal=False, mask=None, scale=None):
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]       # out and lse are computed again
        with torch.enable_grad():
            return torch.autograd.grad(_sdpa(backend, *leaves, causal=causal, mask=mask, scale=scale), leaves, dout)

    return {"attention": attention, "attention_backward": attention_backward, **declared}


# ------------------------------------------------------------------------------------------- torch.nn.functional

def _log_sum_exp(x):
    # In half precision torch.logsumexp rounds the sum and its logarithm to half as well: float32 first.
    return torch.logsumexp(x.to(torch.promote_types(x.dtype, torch.float32)), -1)


def _layer_norm(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _layer_norm_backward(x, weight, dy, eps=1e-5):
    leaves = [t.detach().requires_grad_() for t in (x, weight, torch.zeros_like(weight))]
    with torch.enable_grad():
        return torch.autograd.grad(_layer_norm(*leaves, eps), leaves, dy)


def _dropout(x, p, seed):
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        return torch.native_dropout(x, p, train=True)


FUNCTIONAL = {
    "softmax": lambda x: F.softmax(x, -1),
    "softmax_backward": lambda y, dy: torch._softmax_backward_data(dy, y, -1, y.dtype),
    "masked_softmax": lambda scores, keep: F.softmax(scores.masked_fill(~keep, -INF), -1),
    "log_sum_exp": _log_sum_exp,
    "layer_norm": _layer_norm,
    "layer_norm_backward": _layer_norm_backward,
    "gelu": lambda x: F.gelu(x),
    # On the CPU layer norm hands mean and 1 / std in the input's type to its backward (ATen's native_layer_norm).
    "ROUNDING": {"preset": "fp32-inside", "half_stats": DEVICE == "cpu"},
    "CONVENTIONS": {"empty_row": "nan"},        # softmax of a row of -inf; attention below gives 0
}


# ---------------------------------------------------------------------------- known defects of the CPU's flash kernel

def _lanes(dtype):
    """How many accumulators fit into a vector register: the keys beyond a multiple of it are a scalar tail."""
    wide = torch.promote_types(dtype, torch.float32)
    return (64 if CAPABILITY == "AVX512" else 32) // wide.itemsize


def _scores(q, k, v, scale=None, bias=None, **options):
    """The scores as the kernel sees them, (B, Hq, Lq, Lk), -inf where hidden."""
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1).to(wide)
    scores = (q.to(wide) @ keys.transpose(-1, -2)) * (q.shape[3] ** -0.5 if scale is None else scale)
    visible = _visible(q, k, v, **options)
    scores = scores if bias is None else scores + bias.to(wide)
    return scores if visible is None else scores.masked_fill(~visible, -INF)


def _of_legal_calls(predicate):
    """Arguments that do not fit together have no scores, and match no defect of the arithmetic."""
    def when(arguments):
        try:
            return predicate(arguments)
        except (RuntimeError, ZeroDivisionError):
            return False
    return when


@_of_legal_calls
def _only_nan_in_a_short_row(arguments):
    q, k = arguments["q"], arguments["k"]
    unmasked = _is_causal(**arguments) or _attn_mask(**arguments) is None
    if k.shape[2] >= _lanes(q.dtype) or not unmasked or 0 in (*q.shape, k.shape[2]):
        return False
    scores = _scores(**arguments)
    return bool((scores.isnan().any(-1) & (scores.isnan() | (scores == -INF)).all(-1)).any())


@_of_legal_calls
def _infinite_score_outside_the_tail(arguments):
    n, lanes = arguments["k"].shape[2], _lanes(arguments["q"].dtype)
    if n < lanes:
        return False
    scores = _scores(**arguments)
    last_block, tail = 0 if _is_causal(**arguments) else (n - 1) // 512 * 512, n - n % lanes
    outside = torch.cat([scores[..., :last_block], scores[..., tail:]], -1)     # where NaN survives
    silent = (scores[..., last_block:tail] == INF).any(-1) & ~(outside == INF).any(-1) & ~scores.isnan().any(-1)
    return bool(silent.any())


@_of_legal_calls
def _row_without_a_key(arguments):
    if 0 in (*arguments["q"].shape, arguments["k"].shape[2]):
        return False
    return bool((_scores(**arguments) == -INF).all(-1).any())


def _causal_and_scale_not_positive(arguments):
    a = {name: x for name, x in arguments.items() if name not in ("out", "lse", "dout")}
    return a.get("scale") is not None and a["scale"] <= 0 and a["q"].shape[2] > 1 and _is_causal(**a)


def _several_blocks(arguments):
    return arguments["q"].shape[2] > 32 or arguments["k"].shape[2] > 512


def _no_keys_and_special_queries(arguments):
    return arguments["k"].shape[2] == 0 and not arguments["q"].sum(-1).isfinite().all()      # the sum may overflow


def _flash(q, k, v, **options):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, **options)


def _filled(value, *shape, dtype=torch.float32):
    return torch.full(shape, value, dtype=dtype)


def _nan_query_gives_zero():
    one = _filled(1.0, 1, 1, 1, 1)
    return bool((_flash(one * torch.nan, one, one) == 0).all())


def _infinite_key_gives_zero():
    keys = _filled(1.0, 1, 1, 16, 1, dtype=torch.bfloat16)
    return bool((_flash(keys[:, :, :1], torch.cat([keys[:, :, 1:] * INF, keys[:, :, :1]], 2), keys) == 0).all())


def _lse_of_nothing_is_zero():
    one = _filled(1.0, 1, 1, 1, 1)
    return bool(_flash_lse(one, one, one, mask=one < 0) == 0)


def _causal_negative_scale_gives_nan():
    x = _filled(1.0, 1, 1, 2, 1)
    return bool(_flash(x, x, x, is_causal=True, scale=-1.0).isnan().any())


def _gradient_lost_between_blocks():
    x = _filled(1.0, 1, 1, 33, 1, dtype=torch.bfloat16)
    value = x[:, :, :1].clone().requires_grad_()
    dout = torch.zeros_like(x).index_fill(2, torch.tensor([0]), 1.0)
    dout[:, :, 31], dout[:, :, 32] = 2.0**-10, -1.0                # every weight is 1: dV is their sum
    return torch.autograd.grad(_flash(x, x[:, :, :1], value), value, dout)[0].item() != 2.0**-10


def _reads_past_the_keys():
    memory = torch.tensor([0.0, 100.0]).view(1, 1, 2, 1)         # the second row is not part of the key below
    try:
        return bool(_flash(memory[:, :, 1:], memory[:, :, :1], memory) == 100)
    except RuntimeError:
        return False


def _no_keys_gives_nan():
    query = _filled(torch.nan, 1, 1, 1, 1)
    return bool(F.scaled_dot_product_attention(query, query[:, :, :0], query[:, :, :0]).isnan().any())


def _bias_gradient_stands_still():
    """300 ones are 256 in bfloat16, from where adding 1 changes nothing."""
    ones = torch.ones(300, 1, dtype=torch.bfloat16)
    return _layer_norm_backward(ones, ones[0], ones)[2].item() != 300


SOURCE = ("https://github.com/pytorch/pytorch/blob/008ec6b1840c94ff6d0f685bc10fbf585167c673/"
          "aten/src/ATen/native/cpu/FlashAttentionKernel.cpp")
DEFECTS = [
    dict(operation="attention", when=_no_keys_and_special_queries, reproducer=_no_keys_gives_nan,
         reason="Without keys the function returns early, with 0 times a sum over the queries: one NaN or inf there "
                "makes the whole output NaN, other heads and batch entries included, instead of 0.",
         link="https://github.com/pytorch/pytorch/pull/184914"),
]
FLASH_DEFECTS = [
    *DEFECTS,
    dict(operation="attention", when=_only_nan_in_a_short_row, reproducer=_nan_query_gives_zero,
         reason="Where the keys do not fill a vector register, the row maximum is taken by std::max, which ignores "
                "NaN. A row whose scores are all NaN (or -inf) then counts as fully masked: 0 instead of NaN.",
         link="https://github.com/pytorch/pytorch/issues/141128"),
    dict(operation="attention", when=_row_without_a_key, reproducer=_lse_of_nothing_is_zero,
         reason="The log-sum-exp of a row that sees no key is stored as 0 instead of -inf; the output is 0, as it "
                "should be.",
         link="https://github.com/pytorch/pytorch/pull/133882"),
    *(dict(operation=operation, when=_causal_and_scale_not_positive, reproducer=_causal_negative_scale_gives_nan,
           reason="is_causal writes -inf over the future scores before they are multiplied by the scale: a scale of 0 "
                  "makes them NaN, a negative one +inf. The same mask as attn_mask is right.",
           link=SOURCE) for operation in ("attention", "attention_backward")),
    dict(operation="attention_backward", dtypes=HALF, when=_several_blocks, reproducer=_gradient_lost_between_blocks,
         reason="dK and dV are added up in half precision over blocks of 32 queries, and dQ over blocks of 512 keys: "
                "one rounding a block instead of one in all.",
         link=SOURCE),
    dict(operation="attention", when=lambda a: a["k"].shape[2] != a["v"].shape[2], reproducer=_reads_past_the_keys,
         reason="Keys and values of different lengths are accepted; the length of the values decides, and with fewer "
                "keys the kernel reads past their end.",
         link="https://github.com/pytorch/pytorch/pull/193728"),
]
if CAPABILITY in ("AVX2", "AVX512"):
    FLASH_DEFECTS += [
        dict(operation="attention", dtypes=HALF, when=_infinite_score_outside_the_tail,
             reproducer=_infinite_key_gives_zero,
             reason="A score of +inf gives exp(inf - inf), but the vector exp for half precision turns NaN into 0: the "
                    "row becomes 0 instead of NaN, except where the score is in the scalar tail.",
             link=SOURCE),
    ]

if DEVICE == "cpu":
    FUNCTIONAL["EXPECTED_FAILURES"] = [
        dict(operation="layer_norm_backward", dtypes=HALF, when=lambda a: a["x"].numel() > a["x"].shape[-1],
             reproducer=_bias_gradient_stands_still,
             reason="The gradients of weight and bias are summed over the rows in half precision, one rounding a row "
                    "instead of one in all: from 256 on, a bfloat16 sum no longer grows by ones.",
             link="https://github.com/pytorch/pytorch/blob/00a9f8839ac5d425a9f95840b649b1f2e0a20aa1/"
                  "aten/src/ATen/native/cpu/layer_norm_kernel.cpp"),
    ]
    # In half precision the kernel's exp is a cubic (Malossi et al. 2015, "Fast exponential computation on SIMD
    # architectures"), off by up to 1.07e-4, which is 1788 roundoffs of float32. It reads 512 keys at a time.
    VARIANTS = {
        "flash": _backend(SDPBackend.FLASH_ATTENTION, DTYPES=("float64", "float32"), EXPECTED_FAILURES=FLASH_DEFECTS),
        "flash_half": _backend(SDPBackend.FLASH_ATTENTION, DTYPES=HALF, EXPECTED_FAILURES=FLASH_DEFECTS,
                               ROUNDING={"preset": "fused", "exp_c": 1800.0, "block": 512}),
        "math": _backend(SDPBackend.MATH, ROUNDING="fp32-inside", EXPECTED_FAILURES=DEFECTS),
    }
else:
    VARIANTS = {
        "flash": _backend(SDPBackend.FLASH_ATTENTION, DTYPES=HALF),
        "efficient": _backend(SDPBackend.EFFICIENT_ATTENTION, DTYPES=("float32", *HALF)),
        "cudnn": _backend(SDPBackend.CUDNN_ATTENTION, DTYPES=HALF),
        "math": _backend(SDPBackend.MATH, ROUNDING="fp32-inside"),
    }
VARIANTS["functional"] = FUNCTIONAL
# In half precision 1 / (1 - p) and the product with it are rounded to the type of x.
VARIANTS["dropout"] = {"dropout": _dropout, "ROUNDING": "naive"}
