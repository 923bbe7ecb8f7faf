"""Attention in Triton: fused kernels, on the GPU where there is one, else in Triton's interpreter.

Every operation is a kernel with its explanation beside it; nothing falls back to PyTorch. float16 and bfloat16 inputs
are multiplied as they are, accumulated in float32 and rounded once on the way out; the weights P are rounded to the
half type before P V, as on tensor cores. float32 uses no tf32, float64 is float64 throughout.

Without a GPU (or with TRITON_INTERPRET=1) the kernels run in Triton's interpreter as `interpreter.py` corrects it; with
TRITON_INTERPRET=0 they are compiled, which needs no GPU until one is launched. That must be decided before triton is
imported, so import this package before anything that imports triton.
"""

import os
import sys

if "numpy" not in sys.modules:      # on blocks of 32 x 32 a second BLAS thread costs five times what it gains
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1") == "1"
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"
else:       # products and sums may fuse, as they always did; Triton 3.9 warns that its default will change
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import triton
import triton.language as tl

if isinstance(tl.standard.sum, triton.runtime.JITFunction) == INTERPRETED:
    raise ImportError(
        "triton was imported for compilation before impls.triton_kernels, but there is no GPU to compile for: import "
        "triton_kernels first, or set TRITON_INTERPRET=1 in the environment" if INTERPRETED else
        "triton was imported for its interpreter before impls.triton_kernels, but TRITON_INTERPRET is unset now: set "
        "it to 1 to run in the interpreter, or import triton_kernels first to run on the GPU")

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = ("float64", "float32", "float16", "bfloat16")
ROUNDING = "fused"
NOTE = "interpreter" if INTERPRETED else torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
DOMAIN = {"D": range(1, 257), "Dv": range(1, 257)}
ALGORITHM = "flash"

if INTERPRETED:
    from .interpreter import install

    install(sanitize=os.environ.get("ATTEST_SANITIZE", "1") != "0")

    from .traffic import counted

    TRAFFIC = counted

from . import standard
from .attention import attention
from .backward import attention_backward
from .decode import decode
from .dropout import dropout
from .gelu import gelu
from .layer_norm import layer_norm, layer_norm_backward
from .merge import merge, merge_lse
from .rope import rope
from .softmax import log_sum_exp, masked_softmax, softmax, softmax_backward
from .split_kv import split_kv

__all__ = ["attention", "attention_backward", "decode", "dropout", "gelu", "layer_norm", "layer_norm_backward",
           "log_sum_exp", "masked_softmax", "merge", "merge_lse", "rope", "softmax", "softmax_backward", "split_kv"]

# None is the package as it stands; beside it, what flash attention is compared with. It has no other operation.
VARIANTS = {None: {}, "standard": dict.fromkeys(__all__) | {
    "__doc__": standard.__doc__, "ALGORITHM": "standard", "ROUNDING": "naive",
    "attention": standard.attention, "attention_weights": standard.attention_weights}}
