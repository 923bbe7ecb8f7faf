"""The implementations that attention is compared with: cuDNN and flash through PyTorch's SDPA, and FlexAttention.

Each runs in the process in which ours runs, or says why it cannot. SDPA is given exactly one backend, so that it
cannot take another one in silence. Grouped heads are passed as they are (`enable_gqa`).

Forward: no gradient is asked for, except of FlexAttention, which is compiled once with its backward. Backward: the
forward pass has run before, and only `torch.autograd.grad` is timed.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
import torch._dynamo
import torch._functorch.config as functorch_config
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .clock import first_line

BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash (PyTorch)": SDPBackend.FLASH_ATTENTION}
FLEX = "FlexAttention"
NAMES = (*BACKENDS, FLEX)


class NotAvailable(Exception):
    """Why a peer cannot run here."""


def _sdpa(backend: SDPBackend) -> Callable:
    def attend(q, k, v, causal):
        with sdpa_kernel([backend]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
    return attend


@lru_cache(maxsize=None)
def _flex(length: int, causal: bool) -> Callable:
    """FlexAttention compiled for one length (and, by its guards, for the head dim that it meets)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    for limit in ("recompile_limit", "cache_size_limit"):       # all shapes share one code object; the default is 8
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 256)
    if hasattr(functorch_config, "donated_buffer"):             # the backward is run many times
        functorch_config.donated_buffer = False
    visible = None
    if causal:
        visible = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def attend(q, k, v, causal):
        return compiled(q, k, v, block_mask=visible, enable_gqa=q.shape[1] != k.shape[1])
    return attend


def _attend(name: str, length: int, causal: bool) -> Callable:
    if name != FLEX:
        return _sdpa(BACKENDS[name])
    if not torch.cuda.is_available():
        raise NotAvailable("FlexAttention is compiled for a GPU, and there is none")
    return _flex(length, causal)


def _tried(call: Callable):
    """Run it once; what PyTorch warns about when no backend is left is the reason."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return call()
        except Exception as error:
            said = [str(w.message).splitlines()[0].split(" (Triggered internally")[0] for w in caught]
            telling = [text for text in said if not text.endswith("because:")]
            raise NotAvailable(": ".join([first_line(error), *dict.fromkeys(telling)])[:600]) from error


def forward(name: str, q, k, v, causal: bool) -> Callable:
    """A call that computes the output. NotAvailable where the peer cannot."""
    attend = _attend(name, q.shape[2], causal)
    if name == FLEX:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]

        def call():
            return attend(*leaves, causal).detach()
    else:
        def call():
            with torch.no_grad():
                return attend(q, k, v, causal)
    _tried(call)
    return call


def backward(name: str, q, k, v, dout, causal: bool) -> Callable:
    """A call that computes (dq, dk, dv) from a forward pass that has run. NotAvailable where the peer cannot."""
    attend, leaves = _attend(name, q.shape[2], causal), [x.detach().requires_grad_() for x in (q, k, v)]
    out = _tried(lambda: attend(*leaves, causal))

    def call():
        return torch.autograd.grad(out, leaves, dout, retain_graph=True)
    _tried(call)
    return call


def contenders(make: Callable, names=NAMES) -> tuple[dict[str, Callable], dict[str, str]]:
    """({name: call}, {name: why not}) from make(name)."""
    calls, missing = {}, {}
    for name in names:
        try:
            calls[name] = make(name)
        except NotAvailable as reason:
            missing[name] = str(reason)
    return calls, missing
