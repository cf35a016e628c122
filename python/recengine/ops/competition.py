r"""How the sampled items of a row compete with its target: weights, and the few that matter most.

What a competition-aware softmax holds in its gradient: :func:`sampled_competition` makes it in one pass over
a row, :func:`sampled_logsumexp` then takes ``log_weight`` and a temperature made of ``intensity``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import need_device, need_dimensions, need_dtype, need_floating, need_positive, need_shape
from ._library import native
from ._precision import kernel_takes, wide

__all__ = ["Competing", "log_weights", "sampled_competition", "slate_intensity"]


class Competing(NamedTuple):
    """log_weight [R, N] (0 where an entry does not live), slate int64 [R, M] in no order, intensity [R],
    least [R]: the slate's least score (-1 where no entry of a row lives)."""

    log_weight: Tensor
    slate: Tensor
    intensity: Tensor
    least: Tensor


@torch.no_grad()
def sampled_competition(
    scores: Tensor,
    live: Tensor,
    positive: Tensor,
    *,
    likeness: Tensor | None = None,
    kappa: float = 1.0,
    rho: float = 0.5,
    temperature: float = 0.1,
    slate: int = 20,
) -> Competing:
    r"""Weights of the sampled entries of every row, and its slate.

    .. math:: w_{bj} = \frac{1 + \kappa g_{bj}}{\mathrm{mean}_k (1 + \kappa g_{bk})}, \qquad
              g_{bj} = \rho\, \sigma\!\Big(\frac{s_{bj} - \bar s_b}{\mathrm{sd}_b + 10^{-6}}\Big)
                       + (1 - \rho) \max(c_{bj}, 0)

    The slate are the ``slate`` live entries with the largest :math:`\log w_{bj} + (s_{bj} - p_b) / t`, the
    intensity is the mean of :math:`\sigma((s_{bj} - p_b) / t)` over them. Means are over live entries.
    Without gradients: all of it is meant to be held. One pass over a row on a CPU, plain torch on CUDA.

    Parameters
    ----------
    scores: [R, N] float32 or bfloat16, any strides: s, cosines of the row and its sampled items.
    live: bool [R, N], any strides: entries that count.
    positive: [R]: p, the target's score.
    likeness: [R, N] or None: c, cosines of the target and the sampled items; None counts as 0.
    kappa, rho: strength of the weights (0: all one), share of hardness against likeness.
    temperature, slate: t, above 0; entries of a slate (fewer where N is less), the rest of which does not
        live where a row has fewer that do.

    Returns
    -------
    :class:`Competing`, float32 (float64 for float64).

    Raises
    ------
    RuntimeError for shapes or dtypes that do not fit, naming the argument.
    """
    op = "sampled_competition"
    need_floating(op, scores=scores, positive=positive, likeness=likeness)
    need_device(op, "scores", scores, live=live, positive=positive, likeness=likeness)
    need_dimensions(op, "scores", scores, 2)
    need_shape(op, "live", live, scores.shape)
    need_dtype(op, "live", live, torch.bool)
    need_shape(op, "positive", positive, scores.shape[:1])
    need_shape(op, "likeness", likeness, scores.shape)
    need_positive(op, "temperature", temperature)
    if slate < 1:
        raise RuntimeError(f"{op}: slate must be at least 1, found {slate}")
    if kernel_takes(scores) and not scores.is_cuda:
        found = torch.ops.recengine.sampled_competition(
            scores, likeness, live, positive.float(), kappa * rho, kappa * (1 - rho), temperature, slate
        )
        return Competing(*found)
    return sampled_competition_reference(
        scores,
        live,
        positive,
        likeness=likeness,
        kappa=kappa,
        rho=rho,
        temperature=temperature,
        slate=slate,
    )


@torch.no_grad()
def sampled_competition_reference(
    scores: Tensor,
    live: Tensor,
    positive: Tensor,
    *,
    likeness: Tensor | None = None,
    kappa: float = 1.0,
    rho: float = 0.5,
    temperature: float = 0.1,
    slate: int = 20,
) -> Competing:
    """The same in plain torch."""
    scores, positive = wide(scores), wide(positive)
    alike = torch.zeros_like(scores) if likeness is None else wide(likeness)
    weight = log_weights(scores, alike, live, kappa, rho)
    chosen, intensity = slate_intensity(weight, scores - positive[:, None], live, temperature, slate)
    held = scores.gather(1, chosen).masked_fill(~live.gather(1, chosen), torch.inf)
    least = held.amin(1) if held.shape[1] else torch.full_like(positive, torch.inf)
    return Competing(weight, chosen, intensity, torch.where(torch.isfinite(least), least, -1.0))


def log_weights(scores: Tensor, likeness: Tensor, live: Tensor, kappa: float, rho: float) -> Tensor:
    """log w_j of every row, w_j = (1 + kappa g_j) / mean_k (1 + kappa g_k), g = rho h + (1 - rho) max(c, 0).

    scores [R, N]: cosines s_j; h_j = sigmoid((s_j - mean s) / (std s + 1e-6)), std over the row.
    likeness [R, N]: cosines c_j of target and sampled item. live bool [R, N]: entries that count.
    Means are over live entries; weights have mean one and lie in [1 / (1 + kappa), 1 + kappa].
    """
    counts = live.to(scores.dtype)
    count = counts.sum(1, keepdim=True).clamp(min=1)
    centred = (scores - torch.linalg.vecdot(scores, counts)[:, None] / count).mul_(counts)
    spread = (torch.linalg.vecdot(centred, centred)[:, None] / count).sqrt_()
    above = centred.div_(spread + 1e-6).sigmoid_().mul_(rho * kappa)
    above.add_(likeness.clamp(min=0), alpha=(1 - rho) * kappa)  # kappa g
    level = 1 + torch.linalg.vecdot(above, counts)[:, None] / count
    weight: Tensor = above.log1p_().sub_(level.log()).mul_(counts)
    return weight


def slate_intensity(
    log_weight: Tensor, differences: Tensor, live: Tensor, temperature: float, size: int
) -> tuple[Tensor, Tensor]:
    """The ``size`` live entries with the largest log w_j + d_j / t0 (int64 [R, M], in no order), and the mean
    over them of sigmoid(d_j / t0), [R]. differences [R, N]: d_j; where a row has fewer, the rest of its slate
    are entries that do not live."""
    keys = torch.add(log_weight, differences, alpha=1 / temperature).masked_fill_(~live, -torch.inf)
    slate = keys.topk(min(size, keys.shape[1]), dim=1, sorted=False).indices
    inside = live.gather(1, slate)
    values = torch.sigmoid(differences.gather(1, slate) / temperature) * inside
    return slate, values.sum(1) / inside.sum(1).clamp(min=1)


def _register() -> None:
    @torch.library.register_fake("recengine::sampled_competition")  # type: ignore[untyped-decorator,unused-ignore]
    def _(
        scores: Tensor,
        likeness: Tensor | None,
        live: Tensor,
        positive: Tensor,
        hardness: float,
        likeness_share: float,
        temperature: float,
        slate: int,
    ) -> tuple[Tensor, ...]:
        rows, count = scores.shape
        some: Any = torch.sym_min(slate, count)  # type: ignore[no-untyped-call]
        chosen = scores.new_empty((rows, some), dtype=torch.int64)
        weight = scores.new_empty((rows, count), dtype=torch.float32)
        each: Any = scores.new_empty(rows, dtype=torch.float32)
        return weight, chosen, each, torch.empty_like(each)


if native().cpu:
    _register()
