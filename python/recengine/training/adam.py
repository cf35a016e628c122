"""Adam and AdamW on a CPU without torch's optimiser classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_STATE = ("step", "exp_avg", "exp_avg_sq")


class Adam:
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps).

    Weight decay: added to g, or subtracted from w as lr * decay * w ('decoupled': AdamW). The arithmetic is
    torch's fused kernel, one pass over memory a tensor; groups, state and ``state_dict`` are laid out as in
    torch.optim.Adam(fused=True), so that checkpoints of one go on in the other. Torch's own class imports its
    compiler at the first step: 3 s and 70 MB that a fit has no use for.
    Sources: Kingma & Ba, "Adam", 2015; Loshchilov & Hutter, "Decoupled weight decay regularization", 2019.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        usual = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.param_groups: list[dict[str, Any]] = [{**usual, **group} for group in groups]
        for group in self.param_groups:
            group["params"] = list(group["params"])
        self.decoupled = decoupled
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if set_to_none or weight.grad is None:
                    weight.grad = None
                else:
                    weight.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """One update of every weight that has a gradient."""
        rule: Any = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            held = [self._state_of(weight) for weight in weights]
            steps, first, second = ([one[name] for one in held] for name in _STATE)
            torch._foreach_add_(steps, 1)
            rule(
                weights,
                [weight.grad for weight in weights],
                first,
                second,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """State by the number of the weight, and the groups with numbers for weights."""
        number = {weight: index for index, weight in enumerate(self._weights())}
        groups = [
            {**group, "params": [number[weight] for weight in group["params"]]} for group in self.param_groups
        ]
        return {
            "state": {number[weight]: dict(held) for weight, held in self.state.items()},
            "param_groups": groups,
        }

    def load_state_dict(self, given: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``; raises ValueError for the state of other weights, KeyError for that
        of another rule."""
        counts = [len(group["params"]) for group in given["param_groups"]]
        if counts != [len(group["params"]) for group in self.param_groups]:
            raise ValueError(f"groups of {counts} weights, expected others")
        weights = self._weights()
        self.state = {}
        for index, held in given["state"].items():
            weight = weights[index]
            if held["exp_avg"].shape != weight.shape:
                raise ValueError(f"weight {index} has the shape {tuple(weight.shape)}")
            self.state[weight] = {name: held[name].clone() for name in _STATE}
        for mine, other in zip(self.param_groups, given["param_groups"], strict=True):
            mine.update({key: other[key] for key in mine if key != "params"})

    def _weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        held = self.state.get(weight)
        if held is None:
            held = self.state[weight] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        return held
