"""What a ``.tflite`` holds of PyTorch's operators and Keras' layers, by name: planner and exporter both read these tables.

:data:`qat.exporters.tflite.aten_table.ATEN` has the form of each one. Operators that PyTorch takes apart are not here, but the
core ATen operators that they consist of: https://docs.pytorch.org/docs/stable/torch.compiler_ir.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Called:
    """A call of an operator.

    Attributes:
        name: of the operator, ``aten.sort.default``.
        shape: of its first tensor, None where a size is free.
        dtype: of its first tensor.
        read: which of its outputs are read, where it has several.
        arguments: its arguments by name, those left out with their defaults. A tensor is its type's name.
    """

    name: str
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    read: frozenset[int] = frozenset()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_complex_numbers(self) -> bool:
        """Whether its first tensor holds complex numbers."""
        return self.dtype.startswith("complex")


@dataclass(frozen=True)
class Limit:
    """How far a ``.tflite`` goes with an operator; ``text`` says what it lacks."""

    text: str
    holds: Callable[[Called], bool]


def _neighbours(call: Called) -> bool:
    axes = [axis for axis, given in enumerate(call.arguments["indices"]) if given is not None]
    return axes == list(range(axes[0], axes[-1] + 1))


def _of_fixed_sizes(call: Called) -> bool:
    return None not in call.shape[:1] or call.arguments["indices"][0] is None


def _of_fixed_axis(call: Called) -> bool:
    dim = call.arguments.get("dim", -1)
    return not call.shape or call.shape[dim] is not None


_FIRST = Limit("its indices", lambda call: call.read <= {0})
_BOOL = Limit("of integers", lambda call: call.dtype == "bool")
_AXIS = Limit("over the batch", _of_fixed_axis)
_NO_MASK = Limit("by a mask, which leaves the number of results open", lambda call: "bool" not in call.arguments["indices"])

#: Of operators that are held within limits.
LIMITS: dict[str, tuple[Limit, ...]] = {
    "aten.convolution.default": (
        Limit("transposed, of volumes", lambda call: not (call.arguments["transposed"] and len(call.shape) == 5)),
    ),
    "aten.adaptive_max_pool2d.default": (_FIRST,),
    "aten.max_pool2d_with_indices.default": (_FIRST,),
    "aten.max_pool3d_with_indices.default": (_FIRST,),
    "aten.cummax.default": (_FIRST, _AXIS),
    "aten.cummin.default": (_FIRST, _AXIS),
    "aten.bitwise_and.Scalar": (_BOOL,),
    "aten.bitwise_and.Tensor": (_BOOL,),
    "aten.bitwise_or.Scalar": (_BOOL,),
    "aten.bitwise_or.Tensor": (_BOOL,),
    "aten.grid_sampler_2d.default": (
        Limit("by cubic curves", lambda call: call.arguments["interpolation_mode"] != 2),
        Limit("with reflected borders", lambda call: call.arguments["padding_mode"] != 2),
    ),
    "aten.index.Tensor": (_NO_MASK,),
    "aten.index_put.default": (
        _NO_MASK,
        Limit("at indices of axes that are not neighbours", _neighbours),
        Limit("over the batch", _of_fixed_sizes),
    ),
    **dict.fromkeys(
        (
            "aten.sort.default", "aten.sort.stable", "aten.median.dim", "aten.cumprod.default", "aten.logcumsumexp.default",
            "aten.unfold.default",
        ),
        (_AXIS,),
    ),
}  # fmt: skip

#: What computes sizes beside Python's own operators.
OF_SIZES = frozenset(("trunc", "floor", "ceil", "sym_float"))

#: Assertions of sizes and types, which are left out: they compute nothing.
ASSERTIONS = frozenset(
    (
        "aten._assert_tensor_metadata.default", "aten._assert_async.msg", "aten._assert_async.default",
        "aten._assert_scalar.default", "aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default",
    )
)  # fmt: skip

#: The operators that are held, without the ``aten.`` before each name.
_NAMES = """
    __lshift__.Scalar __lshift__.Tensor __rshift__.Scalar __rshift__.Tensor _adaptive_avg_pool2d.default
    _cdist_forward.default _log_softmax.default _native_batch_norm_legit.no_stats _native_batch_norm_legit_no_training.default
    _softmax.default _to_copy.default _unsafe_view.default _upsample_bicubic2d_aa.default _upsample_bilinear2d_aa.default
    abs.default acos.default acosh.default adaptive_max_pool2d.default add.Scalar add.Tensor addmm.default alias.default
    amax.default amin.default any.default any.dim any.dims arange.start_step argmax.default argmin.default asin.default
    asinh.default atan.default atan2.default atanh.default avg_pool2d.default avg_pool3d.default bitwise_and.Scalar
    bitwise_and.Tensor bitwise_not.default bitwise_or.Scalar bitwise_or.Tensor bitwise_xor.Scalar bitwise_xor.Tensor
    bmm.default bucketize.Tensor cat.default ceil.default clamp.Tensor clamp.default clone.default constant_pad_nd.default
    convolution.default copy.default copysign.Tensor cos.default cosh.default cummax.default cummin.default cumprod.default
    cumsum.default detach.default diagonal.default div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode elu.default
    embedding.default empty.memory_format eq.Scalar eq.Tensor erf.default erfc.default exp.default exp2.default expand.default
    expm1.default flip.default floor.default fmax.default fmin.default fmod.Scalar fmod.Tensor full.default full_like.default
    gather.default ge.Scalar ge.Tensor gelu.default grid_sampler_2d.default gt.Scalar gt.Tensor hardtanh.default hypot.default
    index.Tensor index_put.default index_select.default isinf.default isnan.default kthvalue.default le.Scalar le.Tensor
    leaky_relu.default lift_fresh_copy.default linalg_vector_norm.default log.default log10.default log1p.default log2.default
    logcumsumexp.default logical_and.default logical_not.default logical_or.default logical_xor.default lt.Scalar lt.Tensor
    max.default max.dim max_pool2d.default max_pool2d_with_indices.default max_pool3d_with_indices.default maximum.default
    mean.default mean.dim median.dim min.default min.dim minimum.default mm.default mul.Scalar mul.Tensor
    native_group_norm.default native_layer_norm.default ne.Scalar ne.Tensor neg.default permute.default pow.Scalar
    pow.Tensor_Scalar pow.Tensor_Tensor prod.default prod.dim_int reciprocal.default relu.default remainder.Scalar
    remainder.Tensor repeat.default reshape.default round.default rrelu_with_noise_functional.default rsqrt.default
    scalar_tensor.default scatter.src scatter.value scatter_add.default scatter_reduce.two searchsorted.Tensor select.int
    select_scatter.default sigmoid.default sign.default sin.default sinh.default slice.Tensor slice_scatter.default sort.default
    sort.stable
    split_with_sizes.default sqrt.default squeeze.dim squeeze.dims sub.Scalar sub.Tensor sum.default sum.dim_IntList
    sym_size.int t.default tan.default tanh.default topk.default transpose.int trunc.default unfold.default unsqueeze.default
    upsample_bicubic2d.vec upsample_bilinear2d.vec upsample_nearest2d.vec var.correction var_mean.correction view.default
    where.self
"""

#: The full names of the operators that are held.
HELD = frozenset(f"aten.{name}" for name in _NAMES.split())


def beyond(call: Called) -> str:
    """Return what a ``.tflite`` cannot hold of a call; empty where it holds the call."""
    if call.name in ASSERTIONS:
        return ""
    if call.name not in HELD:
        return call.name
    if call.of_complex_numbers:
        return f"{call.name} (of complex numbers)"
    return next((f"{call.name} ({limit.text})" for limit in LIMITS.get(call.name, ()) if not limit.holds(call)), "")
