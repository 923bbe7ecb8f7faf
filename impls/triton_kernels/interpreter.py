"""Triton's interpreter, made trustworthy: right in bfloat16, right about memory, and faster.

Triton (3.6 to 3.9) can run kernels on NumPy when TRITON_INTERPRET=1 is set. Four things keep that from being evidence
about a kernel, and `install()` corrects them for the whole process:

1. *bfloat16.* NumPy has no such type; the interpreter computes on the 16-bit patterns as if they were integers,
   silently, and its casts truncate. Here every bfloat16 operation is computed in float32 and rounded to nearest even,
   as on a GPU.
2. *Scalars.* A Python float keeps 64 bits; compiled, it is passed as float32 unless annotated `tl.float64`. Same here.
3. *Memory.* A wrong mask reads the neighbour of a tensor and nobody notices; programs run one after the other, so a
   race gives the right sum. The sanitizer checks every active lane of every load, store and atomic: see
   `sanitizer.py`. On demand `traffic.py` counts the bytes that they move. Masked lanes of a load without `other`, which
   a GPU leaves undefined and the stock interpreter makes 0, hold NaN.
4. *Time.* The language is patched once per launch from a recorded list instead of being searched at every call.

What stays different from a GPU: no fused multiply-add, `input_precision` is always IEEE, and subnormals are kept.
"""

import inspect
import math
from contextlib import contextmanager
from functools import cache

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from .sanitizer import Sanitizer
from .traffic import Meter

Handle = stock.TensorHandle

# ------------------------------------------------------------------------------------------------------------- bfloat16


def widen(bits):
    """bfloat16 bit patterns (uint16) as float32; exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow(values):
    """float32 to bfloat16 bit patterns, to nearest, ties to even; NaN stays a (quiet) NaN."""
    bits = np.asarray(values, dtype=np.float32, order="C").view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)
    return np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16)


def _is_bf16(handle):
    return handle.dtype.name == "bf16"


def _up(handle):
    return Handle(widen(handle.data), tl.float32) if _is_bf16(handle) else handle


def _down(handle):
    """Back to bfloat16; a comparison's booleans stay what they are."""
    return Handle(narrow(handle.data), tl.bfloat16) if handle.data.dtype == np.float32 else handle


def _undefined(pointers):
    """What the masked lanes of a load without `other` hold: nothing that a kernel could mean. NaN, or all bits set."""
    dtype = pointers.get_element_ty()
    numpy_dtype = stock._get_np_dtype(dtype)
    nothing = np.nan if numpy_dtype.kind == "f" else np.invert(np.zeros((), numpy_dtype))
    return Handle(np.full(pointers.data.shape, nothing, dtype=numpy_dtype), dtype)


class Builder(stock.InterpreterBuilder):
    """The interpreter's instruction set, with bfloat16 computed in float32 and with memory accesses checked."""

    sanitizer = None
    launches = None     # while traffic is counted: what every launch so far has moved
    meter = None        # ... and the meter of the launch that runs

    def __init__(self):
        super().__init__()
        # The overflow check of integer arithmetic triples its cost and ends in device_assert, which is off here.
        self.options = stock.InterpreterOptions(sanitize_overflow=False)

    def cast_impl(self, src, dst_type):
        if dst_type.scalar == tl.bfloat16:
            return src if _is_bf16(src) else Handle(narrow(src.data.astype(np.float32)), tl.bfloat16)
        return super().cast_impl(_up(src), dst_type)

    def create_fp_to_fp(self, src, dst_type, rounding_mode):
        widths = src.dtype.scalar.primitive_bitwidth, dst_type.scalar.primitive_bitwidth
        if 8 in widths or rounding_mode == stock._ir.ROUNDING_MODE.RTZ:
            return super().create_fp_to_fp(src, dst_type, rounding_mode)
        return self.cast_impl(src, dst_type)

    def unary_op(self, arg, op):
        return _down(super().unary_op(_up(arg), op)) if _is_bf16(arg) else super().unary_op(arg, op)

    def binary_op(self, lhs, rhs, op):
        if _is_bf16(lhs):
            return _down(super().binary_op(_up(lhs), _up(rhs), op))
        return super().binary_op(lhs, rhs, op)

    def ternary_op(self, lhs, rhs, other, op):
        if _is_bf16(other) and op is not np.where:      # a select moves bit patterns as they are
            return _down(super().ternary_op(_up(lhs), _up(rhs), _up(other), op))
        return super().ternary_op(lhs, rhs, other, op)

    def create_fma(self, x, y, z):
        return _down(super().create_fma(_up(x), _up(y), _up(z))) if _is_bf16(z) else super().create_fma(x, y, z)

    def create_dot(self, a, b, d, *options):
        if self.meter:
            self.meter.product(a, b)
        return super().create_dot(_up(a), _up(b), d, *options)

    # maxnum and minnum give the number when the other operand is NaN; Triton 3.6 interpreted them as NaN.
    def create_maxnumf(self, lhs, rhs):
        return self.binary_op(lhs, rhs, np.fmax)

    def create_minnumf(self, lhs, rhs):
        return self.binary_op(lhs, rhs, np.fmin)

    def create_masked_load(self, ptrs, mask, other, *rest):
        self._access("load", ptrs, mask)
        # of a tile of one lane, Triton asks whether `other` is true, and takes other=0 for none
        if other is None and mask is not None and ptrs.data.size > 1:
            other = _undefined(ptrs)
        return super().create_masked_load(ptrs, mask, other, *rest)

    def create_masked_store(self, ptrs, value, mask, *rest):
        self._access("store", ptrs, mask, value)
        return super().create_masked_store(ptrs, value, mask, *rest)

    def create_atomic_rmw(self, op, ptr, value, mask, *rest):
        self._access("atomic", ptr, mask)
        return super().create_atomic_rmw(op, ptr, value, mask, *rest)

    def create_atomic_cas(self, ptr, *rest):
        self._access("atomic", ptr, None)
        return super().create_atomic_cas(ptr, *rest)

    def _access(self, kind, pointers, mask, value=None):
        if self.sanitizer:
            self.sanitizer.check(kind, pointers, mask, value)
        if self.meter:
            self.meter.access(kind, pointers, mask)


def _convert(tensors, dtype, convert):
    types = (tl.block_type(dtype, list(t.shape)) if t.type.is_block() else dtype for t in tensors)
    return tuple(tl.core.tensor(convert(t.handle), t_type) for t, t_type in zip(tensors, types))


def _through_float32(apply_impl):
    """A reduction or scan of bfloat16 tensors as one of float32 tensors, rounded at the end."""
    def apply(self, inputs):
        if not any(_is_bf16(t.handle) for t in inputs):
            return apply_impl(self, inputs)
        wide = tuple(_convert([t], tl.float32, _up)[0] if _is_bf16(t.handle) else t for t in inputs)
        results = apply_impl(self, wide)
        results = results if isinstance(results, (list, tuple)) else (results,)
        return tuple(_convert([t], tl.bfloat16, _down)[0] if t.dtype == tl.float32 else t for t in results)
    return apply


class Reduce(stock.ReduceOps):
    @_through_float32
    def apply_impl(self, inputs):
        extremum = {tl.standard._elementwise_max: np.fmax, tl.standard._elementwise_min: np.fmin}.get(self.combine_fn)
        if extremum is None:
            return super().apply_impl(inputs)
        # As np.nanmax, at a third of its cost, and silent about rows that are all NaN.
        data = extremum.reduce(inputs[0].handle.data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(data, inputs[0].dtype)


class Scan(stock.ScanOps):
    apply_impl = _through_float32(stock.ScanOps.apply_impl)


# ------------------------------------------------------------------------------------------------------------- launches


def _language_changes():
    """What the interpreter changes in triton.language: {(object, attribute): (original, replacement)}.

    Finding these out takes longer than most launches, so it is done once and repeated from the list.
    """
    scope = {}
    exec("def kernel(): pass", {"tl": tl, "core": tl.core}, scope)
    patch = stock._patch_lang(scope["kernel"])
    changes = {}
    for target, name, original in patch._changes:
        changes.setdefault((target, name), (original, vars(target)[name]))
    patch.restore()
    # range(n) asks a scalar tensor for an index; Triton 3.6 answers with int(array), which NumPy 2.4 refuses.
    changes[tl.tensor, "__index__"] = changes[tl.tensor, "__index__"][0], lambda scalar: int(scalar.handle.data.item())
    changes[tl.tensor, "__init__"] = tl.tensor.__init__, _tensor_init
    changes[tl.block_type, "__init__"] = tl.block_type.__init__, _remembering(tl.block_type.__init__)
    return changes


def _remembering(init):
    """block_type.__init__ that validates each combination of element type and shape once: half of the time of an
    operation on a small tile goes into describing its type."""
    known = {}

    def remembered(self, element_ty, shape):
        key = element_ty.name, *(getattr(n, "value", n) for n in shape)
        if key not in known:
            init(self, element_ty, shape)
            known[key] = dict(vars(self))
        vars(self).update(known[key])
    return remembered


@cache
def _shape(sizes):
    return tl.tuple([tl.constexpr(n) for n in sizes]), tl.constexpr(math.prod(sizes))


def _tensor_init(self, handle, type):
    """As tl.tensor.__init__, with the shape looked up."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _shape(tuple(getattr(n, "value", n) for n in type.shape) if type.is_block() else ())


_NUMPY_DTYPES = {dtype.name: stock._get_np_dtype(dtype) for dtype in (
    tl.int1, tl.int8, tl.uint8, tl.int16, tl.uint16, tl.int32, tl.uint32, tl.int64, tl.uint64, tl.float16, tl.bfloat16,
    tl.float32, tl.float64, tl.float8e5, tl.float8e5b16, tl.float8e4nv, tl.float8e4b8, tl.float8e4b15)}


def _get_np_dtype(dtype):
    """As the stock function, which builds its table at every call."""
    scalar = dtype.scalar
    return np.dtype(np.uint64) if scalar.is_ptr() else _NUMPY_DTYPES[scalar.name]


class Launch(stock.GridExecutor):
    """One launch of a kernel: its arguments as a GPU would receive them, its programs one after the other."""

    sanitize = True
    language = None

    def __call__(self, *args, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if name in self.arg_names}      # no num_warps etc.
        host_args, host_kwargs = self._init_args_hst(args, kwargs)
        for hook in self.pre_run_hooks:
            hook(*host_args, **host_kwargs)
        arguments = inspect.getcallargs(self.fn, *host_args, **host_kwargs)
        builder = stock.interpreter_builder
        with self._interpreted_language(), np.errstate(all="ignore"):
            values = {name: value if name in self.constexprs else self._scalar_or_pointer(name, value)
                      for name, value in arguments.items()}
            grid = tuple(self.grid(arguments) if callable(self.grid) else self.grid)
            builder.set_grid_dim(*grid, *(1,) * (3 - len(grid)))
            builder.sanitizer = Sanitizer(self.fn.__name__, arguments) if self.sanitize else None
            if builder.launches is not None:
                builder.meter = Meter(self.fn.__name__, arguments, {name: arguments[name] for name in self.constexprs})
            try:
                for program in np.ndindex(*builder.grid_dim):
                    builder.set_grid_idx(*program)
                    self.fn(**values)
                if builder.meter:
                    builder.launches.append(builder.meter.launch())
            finally:
                builder.sanitizer = builder.meter = None
        self._restore_args_dev(args, host_args, kwargs, host_kwargs)

    def _scalar_or_pointer(self, name, value):
        if not isinstance(value, float):
            return stock._implicit_cvt(value)
        dtype = tl.float64 if _annotated_float64(self.fn, name) else tl.float32
        return tl.tensor(Handle(np.array([value], dtype=stock._get_np_dtype(dtype)), dtype), dtype)

    @contextmanager
    def _interpreted_language(self):
        if Launch.language is None:
            Launch.language = _language_changes()
        for (target, name), (_, replacement) in Launch.language.items():
            setattr(target, name, replacement)
        try:
            yield
        finally:
            for (target, name), (original, _) in Launch.language.items():
                if original is stock._MISSING:
                    delattr(target, name)
                else:
                    setattr(target, name, original)


def _annotated_float64(kernel, name):
    return kernel.__annotations__.get(name) in (tl.float64, "tl.float64", "fp64", "float64")


def _call_device_function(function, *args, **kwargs):
    """A kernel calls another jitted function: the language is patched already, and errors are passed on as they are."""
    return function.rewrite()(*args, **kwargs)


def install(sanitize=True):
    """Replace the parts of Triton's interpreter, in this process, by the ones above; `sanitize` checks memory as well.

    A second installation, of another copy of this module too, only sets `sanitize`.
    """
    if type(stock.interpreter_builder) is stock.InterpreterBuilder:
        stock.interpreter_builder = stock.interpreter_semantic.builder = Builder()
        stock.GridExecutor, stock.ReduceOps, stock.ScanOps = Launch, Reduce, Scan
        stock._get_np_dtype = _get_np_dtype
        stock.InterpretedFunction.__call__ = _call_device_function
    stock.GridExecutor.sanitize = sanitize
