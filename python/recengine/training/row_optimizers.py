"""Optimisers that touch only the rows of a table that a batch named, and several optimisers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recengine.ops.embedding import gradient_rows, rowwise_adagrad_, sparse_adam_


class RowOptimizer(torch.optim.Optimizer):
    """Row-wise Adagrad (one running sum a row) or Adam on seen rows (recengine.ops.embedding).

    rule: 'rowwise_adagrad' or 'sparse_adam'. lr: step size before ``scale``. A dense gradient is taken too:
    its rows that are not all zero count as seen.
    """

    def __init__(self, tables: Sequence[torch.nn.Parameter], rule: str, lr: float, scale: float) -> None:
        super().__init__(list(tables), {"lr": lr * scale, "scale": scale, "rule": rule})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                rows, values = _rows_of(table.grad)
                state = self.state[table]
                if group["rule"] == "rowwise_adagrad":
                    if not state:
                        state["sum"] = torch.zeros(table.shape[0], device=table.device)
                    rowwise_adagrad_(table, state["sum"], rows, values, lr=group["lr"])
                    continue
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.int64)
                    state["exp_avg"] = torch.zeros_like(table, dtype=torch.float32)
                    state["exp_avg_sq"] = torch.zeros_like(table, dtype=torch.float32)
                state["step"] += 1
                sparse_adam_(
                    table,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    rows,
                    values,
                    step=int(state["step"]),
                    lr=group["lr"],
                )


class Together(torch.optim.Optimizer):
    """Several optimisers with one list of groups and one state: saved and restored as one."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = list(members)
        super().__init__([group for member in members for group in member.param_groups], {})
        self._bind()

    def _bind(self) -> None:
        """Give every member the groups and the state that are held here."""
        at = 0
        for member in self.members:
            count = len(member.param_groups)
            member.param_groups = self.param_groups[at : at + count]
            member.state = self.state
            at += count

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every member."""
        for member in self.members:
            member.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state_dict)
        self._bind()


def _rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    if gradient.is_sparse:
        return gradient_rows(gradient)
    rows = (gradient != 0).any(1).nonzero().squeeze(1)
    return rows, gradient[rows]
