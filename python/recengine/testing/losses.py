"""Conformance of losses."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.contracts.model import DataFacts
from recengine.testing.base import Conformance, skip

ROWS, ITEMS, DIM = 12, 20, 6


class LossConformance(Conformance):
    """Checks of a loss: a finite scalar, right gradients, lower for better rows, a mean."""

    kind = "loss"

    def built(self) -> Any:
        """The loss, made from its config."""
        config = self.config()
        loss = self.entry().load()(*([] if config is None else [config]))
        if hasattr(loss, "prepare"):
            torch.manual_seed(0)
            loss.prepare(DataFacts(ROWS, ITEMS))
        return loss

    def given(self, loss: Any, seed: int = 0) -> LossInput:
        """Random input with what the loss asks for, and nothing else."""
        rng = np.random.default_rng(seed)
        needs = loss.needs
        negatives = log_q = None
        if "negatives" in needs:
            count = getattr(loss, "negatives", 5) or 5
            shape = (count,) if getattr(loss, "shared", False) else (ROWS, count)
            negatives = torch.from_numpy(rng.integers(0, ITEMS, shape))
            if getattr(loss, "sampler", "uniform") != "uniform":
                log_q = torch.full(shape, -float(np.log(ITEMS)))
        return LossInput(
            torch.from_numpy(rng.normal(0, 0.5, (ROWS, DIM)).astype(np.float32)),
            torch.from_numpy(rng.normal(0, 0.5, (ITEMS, DIM)).astype(np.float32)),
            torch.from_numpy(rng.integers(0, ITEMS, ROWS)),
            negatives,
            log_q,
            None,
            torch.arange(ROWS) if "row_ids" in needs else None,
            torch.from_numpy(rng.integers(1, 9, ITEMS).astype(np.float32)) if "popularity" in needs else None,
            (torch.arange(ROWS + 1) * 3, torch.from_numpy(rng.integers(0, ITEMS, 3 * ROWS)))
            if "user_items" in needs
            else None,
        )

    def value(self, loss: Any, given: LossInput) -> Tensor:
        """The loss with its state as it was before: a second call sees what the first saw."""
        fresh = copy.deepcopy(loss)
        value: Tensor = fresh(given, StepContext(0, 0, 1, 8))
        return value

    def test_declares_what_it_needs(self) -> None:
        known = set(get_args(Need))
        needs = self.built().needs
        assert isinstance(needs, frozenset), "needs is a frozenset"
        assert needs <= known, f"unknown needs: {sorted(needs - known)}"

    def test_is_a_finite_scalar(self) -> None:
        loss = self.built()
        value = self.value(loss, self.given(loss))
        assert value.shape == (), f"no scalar: {tuple(value.shape)}"
        assert torch.isfinite(value), f"the loss is {value.item()}"

    def test_gradients_are_right(self) -> None:
        loss = self.built()
        given = self.given(loss)
        anchors, items = (part.clone().requires_grad_() for part in (given.anchors, given.items))
        self.value(loss, replace(given, anchors=anchors, items=items)).backward()  # type: ignore[no-untyped-call]
        assert anchors.grad is not None, "no gradient reaches the anchors"
        assert items.grad is not None, "no gradient reaches the items"
        for name, gradient in (("anchors", anchors.grad), ("items", items.grad)):
            assert torch.isfinite(gradient).all(), f"the gradient of the {name} is not finite"
            norm = float(gradient.norm())
            assert norm > 0, f"the gradient of the {name} is zero"
            if getattr(loss, "surrogate", False):
                continue
            slope = self._slope(loss, given, name, gradient / norm)
            assert abs(slope - norm) <= 0.02 * norm + 1e-3, f"{name}: gradient {norm:.4g}, slope {slope:.4g}"

    def test_falls_along_its_gradient(self) -> None:
        loss = self.built()
        if getattr(loss, "surrogate", False):
            skip("its value is not what its gradient belongs to")
        given = self.given(loss)
        before = self.value(loss, given)
        anchors = given.anchors.clone().requires_grad_()
        self.value(loss, replace(given, anchors=anchors)).backward()  # type: ignore[no-untyped-call]
        assert anchors.grad is not None
        step = 0.05 * anchors.grad / anchors.grad.norm()
        assert self.value(loss, replace(given, anchors=given.anchors - step)) < before

    def test_prefers_the_right_item(self) -> None:
        loss = self.built()
        given = self.given(loss)
        table = 4 * torch.eye(ITEMS)  # every item its own direction
        right = replace(given, items=table, anchors=table[given.positives])
        blind = replace(right, anchors=torch.zeros(ROWS, ITEMS))
        assert self.value(loss, right) < self.value(loss, blind), "the right item costs more than none"

    def test_does_not_depend_on_the_order_of_rows(self) -> None:
        loss = self.built()
        given = self.given(loss)
        order = torch.from_numpy(np.random.default_rng(1).permutation(ROWS))
        shuffled = replace(given, anchors=given.anchors[order], positives=given.positives[order])
        for name in ("negatives", "log_q", "row_ids"):
            part = getattr(given, name)
            if part is not None and part.shape[0] == ROWS and (part.ndim == 2 or name == "row_ids"):
                shuffled = replace(shuffled, **{name: part[order]})
        one, other = float(self.value(loss, given)), float(self.value(loss, shuffled))
        assert abs(one - other) <= 1e-5 * max(1.0, abs(one)), f"{one} in one order, {other} in another"

    def test_is_a_mean_over_rows(self) -> None:
        loss = self.built()
        given = self.given(loss)
        twice = replace(given, anchors=given.anchors.repeat(2, 1), positives=given.positives.repeat(2))
        for name in ("negatives", "log_q", "row_ids"):
            part = getattr(given, name)
            if part is not None and part.shape[0] == ROWS and (part.ndim == 2 or name == "row_ids"):
                twice = replace(twice, **{name: part.repeat(2, *[1] * (part.ndim - 1))})
        one, other = float(self.value(loss, given)), float(self.value(loss, twice))
        assert abs(one - other) <= 0.05 * max(1.0, abs(one)), f"{one} for the rows, {other} for them twice"

    def test_leaves_its_input_as_it_was(self) -> None:
        loss = self.built()
        given = self.given(loss)
        before = copy.deepcopy(given)
        self.value(loss, given)
        for name in ("anchors", "items", "positives", "negatives"):
            part = getattr(given, name)
            assert part is None or torch.equal(part, getattr(before, name)), f"it changes {name}"

    def test_its_state_can_be_saved(self) -> None:
        loss = self.built()
        if isinstance(loss, torch.nn.Module):
            other = self.built()
            other.load_state_dict(loss.state_dict())

    def _slope(self, loss: Any, given: LossInput, name: str, direction: Tensor) -> float:
        """Central difference along ``direction``, in double where the loss computes in double."""
        wide = replace(given, anchors=given.anchors.double(), items=given.items.double())
        step = 1e-3
        ends = [
            float(
                self.value(
                    loss, replace(wide, **{name: getattr(wide, name) + sign * step * direction.double()})
                )
            )
            for sign in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * step)
