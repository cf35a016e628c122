r"""Mixture of experts per token position: routing and SwiGLU feed-forward, dispatch and combine fused.

Every token position t has its own router and its own experts (TokenMixer-Large, sparse per-token MoE):

.. math:: \ell_t = W_r^{t\top} x_t, \quad I = \mathrm{top}_k(\ell_t),\quad g = \mathrm{softmax}(\ell_t[I]), \\
          y_t = \alpha \sum_{i \in I} g_i\, F_{t,i}(x_t) + F_t^{\mathrm{shared}}(x_t)

with :math:`F(x) = W_d^\top(\mathrm{swish}(W_g^\top x) \odot W_u^\top x)` and swish(z) = z sigmoid(z).
:func:`route` chooses, :func:`grouped_swiglu` computes; without a choice it is the dense per-token SwiGLU.

Rows are gathered while they are packed for the product and their outputs are added where they belong: there
is no permuted copy of the tokens, no padded group, and neither the experts' outputs nor their gradients are
stored. The backward pass makes the hidden layer again, as a rule from what lies before the activation,
which the forward pass of a CPU keeps where an expert has rows enough. With :math:`s = \alpha g`,
:math:`\hat D = G W_d^\top` and :math:`a = \mathrm{swish}(z) \odot u`:

.. math:: \partial g = \alpha \langle a, \hat D\rangle, \;\; \partial u = s \hat D \odot \mathrm{swish}(z), \\
          \partial z = s \hat D \odot u \odot \mathrm{swish}'(z), \quad \partial W_d = (s a)^\top G

Results do not depend on the number of threads: an output row belongs to one task, which adds the shared
expert first and then the others by their number; a weight's gradient is summed in row order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ._checks import need_device, need_dimensions, need_dtype, need_floating, need_range, need_shape
from ._library import differentiable_once, native
from ._precision import autocast, kernel_takes, wide

__all__ = ["Experts", "PackedWeights", "Routing", "grouped_swiglu", "route"]


class Routing(NamedTuple):
    """experts: [B, T, k] int64, by falling gate; gates: [B, T, k], sum 1; load: [T, E] rows an expert."""

    experts: Tensor
    gates: Tensor
    load: Tensor


class Experts(NamedTuple):
    """Weights of SwiGLU experts: gate and up [T, E, D, F], down [T, E, F, D]; without E, one a position."""

    gate: Tensor
    up: Tensor
    down: Tensor

    def banked(self) -> Experts:
        """With the dimension of experts, whether or not it was left out."""
        return Experts(*(w.unsqueeze(1) if w.dim() == 3 else w for w in self))


class PackedWeights:
    """Experts in the layout that the kernel reads, kept until a weight changes: for inference.

    A weight's version counter tells an in-place change; a different tensor, or another view of one, is a
    different weight. Packing happens at the first call and after every change. A change through ``.data``
    leaves the counter as it is and is not seen. On devices without such a layout, in a compiled graph and for
    inference tensors, which count no versions, nothing is kept. A copy, and what is pickled, starts empty.
    """

    def __init__(self) -> None:
        self._versions: tuple[object, ...] = ()
        self._kept: Experts | None = None
        self._packed: Tensor | None = None

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return PackedWeights, ()

    def of(self, experts: Experts, dtype: torch.dtype | None = None) -> Tensor | None:
        """The packed form of ``experts``, in ``dtype`` where it is given (the arithmetic under autocast), or
        None where no kernel reads one or nothing can tell whether it is still right."""
        if torch.compiler.is_compiling() or any(weight.is_inference() for weight in experts):
            return None
        weights = experts.banked()
        kept = dtype or weights.gate.dtype
        if not (weights.gate.device.type == "cpu" and kernel_takes(weights.gate)):
            return None
        versions = (kept, *(_version(weight) for weight in experts))
        if self._packed is None or versions != self._versions:
            self._packed = torch.ops.recengine.swiglu_pack(*(w.detach().to(kept) for w in weights))
            self._versions = versions
            self._kept = experts  # an address must not be used again meanwhile
        return self._packed


def _version(weight: Tensor) -> tuple[object, ...]:
    return weight.data_ptr(), weight._version, weight.shape, weight.stride(), weight.dtype


def route(x: Tensor, router: Tensor, k: int) -> Routing:
    r"""Choose k experts for every token and weigh them: top-k of the logits, softmax over the chosen.

    Logits are summed in float32 and autocast does not apply. Ties go to the smaller expert number. The
    gates have a gradient, :math:`\partial \ell_I = g \odot (\partial g - \langle g, \partial g\rangle)`.

    Parameters
    ----------
    x: [B, T, D]; router: [T, D, E]; float32 or bfloat16, any strides. k: 1 to E. (The backward pass copies a
        gradient of the gates, [B, T, k], that is not contiguous.)

    Raises
    ------
    RuntimeError: naming the argument, where shapes or dtypes do not fit or k is out of range.
    """
    need_floating("moe_route", x=x, router=router)
    need_device("moe_route", "x", x, router=router)
    need_dimensions("moe_route", "x", x, 3)
    need_dimensions("moe_route", "router", router, 3)
    need_shape("moe_route", "router", router, (*x.shape[1:], router.shape[2]))
    if kernel_takes(x):
        gates, experts, load = torch.ops.recengine.moe_route(x, router, k)
        return Routing(experts, gates, load)
    return route_reference(x, router, k)


def grouped_swiglu(
    x: Tensor,
    weights: Experts,
    routing: Routing | tuple[Tensor, Tensor] | None = None,
    *,
    shared: Experts | None = None,
    alpha: float = 1.0,
    packed: PackedWeights | None = None,
    shared_packed: PackedWeights | None = None,
) -> Tensor:
    r"""SwiGLU experts per token position, [B, T, D] to [B, T, D].

    .. math:: y_{bt} = \alpha \sum_j g_{btj} F_{t, i_{btj}}(x_{bt}) + F_t^{\mathrm{shared}}(x_{bt})

    Parameters
    ----------
    x: [B, T, D] float32 or bfloat16 (float16 on CUDA), any strides.
    weights: the experts, [T, E, D, F]; without ``routing`` one a position, [T, D, F].
    routing: what :func:`route` returned, or (experts, gates). None: the dense per-token SwiGLU (``alpha`` and
        gates play no part).
    shared: an expert a position that every row goes through, [T, D, F'].
    alpha: scale of the routed part (number of experts over k keeps the initial variance).
    packed, shared_packed: caches of the packed weights, for inference. They are left aside where a gradient
        is asked for.

    Raises
    ------
    RuntimeError: naming the argument, where shapes, dtypes or devices do not fit or an expert does not exist.
    """
    chosen = (None, None) if routing is None else (routing[0], routing[1])
    own, other = weights.banked(), None if shared is None else shared.banked()
    _check_caches(packed=packed, shared_packed=shared_packed)
    x, *cast = autocast(x, *own, *(other or ()))
    _check(x, own, other, *chosen)
    if not kernel_takes(x):
        return grouped_swiglu_reference(
            x, Experts(*cast[:3]), chosen, Experts(*cast[3:]) if other else None, alpha
        )
    spare = cast[3:] or (None, None, None)
    learning = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, *cast, chosen[1])
    )
    layouts: list[Tensor | None] = [None, None]
    if not learning:
        for place, (cache, bank) in enumerate(((packed, own), (shared_packed, other))):
            layouts[place] = None if cache is None or bank is None else cache.of(bank, x.dtype)
    if learning and x.device.type == "cpu" and _keeps(x, own, chosen[0], shared):
        kept: Tensor = torch.ops.recengine.learning_swiglu(x, *cast[:3], *chosen, *spare, alpha)[0]
        return kept
    y: Tensor = torch.ops.recengine.grouped_swiglu(x, *cast[:3], *chosen, *spare, alpha, *layouts)
    return y


def _check_caches(**caches: object) -> None:
    for name, cache in caches.items():
        if not (cache is None or isinstance(cache, PackedWeights)):
            found = type(cache).__name__
            raise RuntimeError(f"grouped_swiglu: {name} must be a PackedWeights or None, found {found}")


def _check(
    x: Tensor, own: Experts, other: Experts | None, experts: Tensor | None, gates: Tensor | None
) -> None:
    """Sizes of all, and which experts exist where no kernel looks."""
    op = "grouped_swiglu"
    banks = {
        f"{place}{part}": w
        for place, bank in (("", own), ("shared_", other))
        if bank is not None
        for part, w in bank._asdict().items()
    }
    need_floating(op, x=x, **banks, gates=gates)
    need_device(op, "x", x, **banks, experts=experts, gates=gates)
    need_dimensions(op, "x", x, 3)
    for place, bank in (("", own), ("shared_", other)):
        if bank is None:
            continue
        need_dimensions(op, f"{place}gate", bank.gate, 4)
        count, hidden = bank.gate.shape[1], bank.gate.shape[3]
        need_shape(op, f"{place}gate", bank.gate, (x.shape[1], count, x.shape[2], hidden))
        need_shape(op, f"{place}up", bank.up, bank.gate.shape)
        need_shape(op, f"{place}down", bank.down, (x.shape[1], count, hidden, x.shape[2]))
        if count != 1 and (place or experts is None):
            expected = "1" if place else "one where no experts are chosen"
            raise RuntimeError(f"{op}: {place}gate has {count} experts a position, expected {expected}")
    if (experts is None) != (gates is None):
        raise RuntimeError(f"{op}: experts and gates come together or not at all")
    if experts is None or gates is None:
        return
    need_dimensions(op, "experts", experts, 3)
    need_shape(op, "experts", experts, (*x.shape[:2], experts.shape[2]))
    need_dtype(op, "experts", experts, torch.int64)
    need_shape(op, "gates", gates, experts.shape)
    if not kernel_takes(x):
        need_range(op, "experts", experts, 0, own.gate.shape[1] - 1)


def _keeps(x: Tensor, weights: Experts, experts: Tensor | None, shared: Experts | None) -> bool:
    """Whether keeping what lies before the activation pays: it is kept by groups of rows of one expert. Of a
    mixture a compiled graph makes it again: what it keeps must not hang on a number of rows that it need not
    know."""
    if experts is None:
        return _KEEPS_MIXTURES or shared is None
    if torch.compiler.is_compiling():
        return False
    return _KEEPS_MIXTURES and bool(x.shape[0] * experts.shape[2] >= BLOCK * weights.gate.shape[1])


def route_reference(x: Tensor, router: Tensor, k: int) -> Routing:
    """The same choice in plain torch."""
    if not 1 <= k <= router.shape[-1]:
        raise RuntimeError(f"moe_route: k is {k}, expected 1 to the number of experts ({router.shape[-1]})")
    logits = torch.einsum("btd,tde->bte", wide(x), wide(router))
    # a stable sort, where topk promises nothing about ties
    experts = logits.detach().sort(dim=-1, descending=True, stable=True).indices[..., :k].contiguous()
    gates = logits.gather(-1, experts).softmax(-1)
    load = functional.one_hot(experts, router.shape[-1]).sum((0, 2))
    return Routing(experts, gates, load)


def grouped_swiglu_reference(
    x: Tensor,
    weights: Experts,
    routing: tuple[Tensor | None, Tensor | None] = (None, None),
    shared: Experts | None = None,
    alpha: float = 1.0,
) -> Tensor:
    """The same in plain torch: every expert on every row, masked."""
    experts, gates = routing
    rows = wide(x)

    def every(bank: Experts) -> Tensor:  # [B, T, E, D]
        gate, up, down = (wide(w) for w in bank)
        hidden = functional.silu(torch.einsum("btd,tedf->btef", rows, gate))
        return torch.einsum("btef,tefd->bted", hidden * torch.einsum("btd,tedf->btef", rows, up), down)

    outputs = every(weights)
    if experts is None or gates is None:
        y = outputs.squeeze(2)
    else:
        share = torch.zeros_like(outputs[..., 0]).scatter_add(2, experts, gates.to(outputs.dtype))
        y = alpha * (outputs * share[..., None]).sum(2)
    if shared is not None:
        y = y + every(shared).squeeze(2)
    return y.to(x.dtype)


def _route_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, router, _ = inputs
    gates, experts, load = output
    ctx.save_for_backward(x, router, experts, gates)
    ctx.mark_non_differentiable(experts, load)
    ctx.set_materialize_grads(False)


def _route_backward(ctx: Any, gates_grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if gates_grad is None:
        return None, None, None
    return (*torch.ops.recengine.moe_route_backward(gates_grad, *ctx.saved_tensors), None)


def _swiglu_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:9])
    ctx.alpha = inputs[9]


def _swiglu_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    made = torch.ops.recengine.grouped_swiglu_backward(grad, *tensors, ctx.alpha)
    return (*_by_argument(made, tensors), None, None, None)


def _learning_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:9])
    ctx.alpha = inputs[9]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _learning_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 10
    kept, *tensors = ctx.saved_tensors
    made = torch.ops.recengine.learning_swiglu_backward(grad, kept, *tensors, ctx.alpha)
    return (*_by_argument(made, tensors), None)


def _by_argument(made: Any, tensors: Any) -> tuple[Any, ...]:
    """The gradients in the order of the arguments: x, three weights, experts, gates, three shared weights."""
    x, gate, up, down, gates, *shared = made
    routed, dense = tensors[5] is not None, tensors[6] is None
    spare = (None, None, None) if dense else tuple(shared)
    return x, gate, up, down, None, gates if routed else None, *spare


def _register() -> None:
    library: Any = torch.library
    differentiable_once("route", "moe_route_backward")
    differentiable_once("grouped_swiglu", "grouped_swiglu_backward", "learning_swiglu_backward")
    library.register_autograd("recengine::learning_swiglu", _learning_backward, setup_context=_learning_setup)
    library.register_autograd("recengine::moe_route", _route_backward, setup_context=_route_setup)
    library.register_autograd("recengine::grouped_swiglu", _swiglu_backward, setup_context=_swiglu_setup)

    @library.register_fake("recengine::moe_route")  # type: ignore[untyped-decorator,unused-ignore]
    def _(x: Tensor, router: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (x.shape[0], x.shape[1], k)
        load = x.new_empty((x.shape[1], router.shape[2]), dtype=torch.int64)
        return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.int64), load

    @library.register_fake("recengine::moe_route_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(grad: Tensor, x: Tensor, router: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape), router.new_empty(router.shape)

    @library.register_fake("recengine::grouped_swiglu")  # type: ignore[untyped-decorator,unused-ignore]
    def _(x: Tensor, *_: Any) -> Tensor:
        return x.new_empty(x.shape)

    @library.register_fake("recengine::learning_swiglu")  # type: ignore[untyped-decorator,unused-ignore]
    def _(x: Tensor, gate: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        _, _, experts, _, shared, *_ = rest
        y = x.new_empty(x.shape)
        return y, x.new_empty((x.shape[1], _kept_floats(x, gate, experts, shared)), dtype=torch.float32)

    @library.register_fake("recengine::learning_swiglu_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(grad: Tensor, kept: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return _shapes_of_gradients(*rest)

    @library.register_fake("recengine::grouped_swiglu_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return _shapes_of_gradients(*rest)


def _shapes_of_gradients(*rest: Any) -> tuple[Tensor, ...]:
    x, *weights, _, gates, gate, up, down, _ = rest
    shape = (x.shape[0] if gates is not None else 0, x.shape[1], 0 if gates is None else gates.shape[2])
    spare = [
        x.new_empty(0, dtype=torch.float32) if w is None else w.new_empty(w.shape) for w in (gate, up, down)
    ]
    own = [w.new_empty(w.shape) for w in weights]
    return x.new_empty(x.shape), *own, x.new_empty(shape, dtype=torch.float32), *spare


def _groups(rows: int) -> int:
    return (rows + BLOCK - 1) // BLOCK


def _kept_floats(x: Tensor, gate: Tensor, experts: Tensor | None, shared: Tensor | None) -> int:
    """Of a position: see Kept in csrc/moe/op_cpu.cpp."""
    rows, piece = x.shape[0], _rows_in_flight(x.shape[2])
    broken = 0 if experts is None else (rows + piece - 1) // piece * gate.shape[1]
    groups = _groups(rows * (1 if experts is None else experts.shape[2])) + broken
    routed = groups * _groups(gate.shape[3]) * 2 * BLOCK * BLOCK
    return routed + (0 if shared is None else _groups(rows) * _groups(shared.shape[3]) * 2 * BLOCK * BLOCK)


def _rows_in_flight(width: int) -> int:
    """Rows that a task holds, as the kernel counts them (rows_at_once in csrc/moe/op_cpu.cpp)."""
    return min(max((1 << 17) // max(width, 1), 512), 1024) // BLOCK * BLOCK


# Rows and hidden columns of a block of what is kept for the backward pass; whether it is kept of mixtures,
# too (not yet on matrix tiles, where it has not been measured).
BLOCK = 32
_KEEPS_MIXTURES = False

if native().cpu:
    _KEEPS_MIXTURES = not torch.ops.recengine.on_tiles()
    _register()
