"""The policy: dense step, then pruning toward the default, in batch order."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recengine.contracts.tuner import Conclusion, Observation
from recengine.errors import UsageError
from recengine.tuning import Space, walk
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.limits import Limits
from recengine_plugins.bonsai.revert import Reverted, revert

try:
    import botorch  # noqa: F401
except ImportError as missing:
    raise UsageError(
        "this tuner needs botorch and gpytorch", found=str(missing), fix="pip install 'recengine[bonsai]'"
    ) from missing

from botorch.exceptions.errors import BotorchError, ModelFittingError

from recengine_plugins.bonsai.acquisition import Acquisition, OnlyFeasibility, build
from recengine_plugins.bonsai.beyond import polished, widened
from recengine_plugins.bonsai.dense import dense_step, refine, within_reach
from recengine_plugins.bonsai.design import FROM, blocks
from recengine_plugins.bonsai.incumbent import prune_incumbent, sparsest, tolerated
from recengine_plugins.bonsai.knowledge import Knowledge, usable

_ANCHORS = 3  # best points from which sparse starts are drawn
_EVEN = 0.5  # confidence at which a sparser incumbent is worth a trial
_PRUNED = 2  # local optima that are pruned side by side
# what fits and optimisers raise where arithmetic fails (torch's and gpytorch's are RuntimeErrors)
NUMERICAL = (BotorchError, ModelFittingError, ArithmeticError, RuntimeError, np.linalg.LinAlgError)
_LOG = logging.getLogger(__name__)


class Bonsai:
    """Bayesian optimisation whose proposals differ from the default only where it pays (arXiv 2602.07144)."""

    def __init__(self, config: BonsaiConfig, space: Space, seed: int) -> None:
        if config.schedule == "no_regret":  # its bound holds for a search of the whole space
            config = config.model_copy(update={"reach": 1.0})
        self.config, self.space, self.seed = config, space, seed
        self.limits = Limits(space)
        self.initial = config.initial or min(10, max(4, len(space.names) + 2))
        self.default = torch.as_tensor(space.encode(space.default))

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """n points: a design first, then model-based ones, each conditioned on those before it."""
        proposals: list[dict[str, Any]] = []
        taken = [dict(point) for point in pending]
        known: Knowledge | None = None
        for i in range(n):
            at = len(history) + len(taken)
            facts: dict[str, Any] = {"origin": "design"}
            member = at - self._repeats([*(seen.parameters for seen in history), *taken])
            if member < self.initial or sum(usable(entry) for entry in history) < 2:
                point = self._designed(member)
            else:
                with torch.random.fork_rng(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # botorch warns of every imperfect fit; trials are kept
                    torch.manual_seed(int(np.random.SeedSequence([self.seed, at]).generate_state(1)[0]))
                    try:
                        known = known or Knowledge.of(self.space, history, self.config, seed=self.seed + at)
                        point, facts = self._model_based(known, taken, i, at)
                    except NUMERICAL as failed:
                        reason = f"no model-based proposal: {type(failed).__name__}: {failed}"
                        _LOG.warning("trial %d is a Sobol point; %s", at, reason)
                        point, facts = self._sobol(at), {"origin": "sobol", "reason": reason}
            taken.append(point)
            proposals.append({**point, "__facts__": facts})
        return proposals

    def conclude(self, history: Sequence[Observation]) -> Conclusion:
        """Prune the incumbent with the joint posterior; the frontier and the table of reversions. Raises
        UsageError where too little was measured, or no model can be fitted to it."""
        from recengine_plugins.bonsai.final import recommend

        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(self.seed)
            try:
                return recommend(self.space, history, self.config, seed=self.seed)
            except NUMERICAL as failed:
                raise UsageError(
                    "no model could be fitted to the trials",
                    where="conclusion",
                    found=f"{type(failed).__name__}: {failed}",
                ) from failed

    def _designed(self, at: int) -> dict[str, Any]:
        """Member ``at`` of the design: a block of parameters moved, or (always for few parameters) all."""
        dense = self._sobol(at)
        if not self._in_blocks or not 0 < at < self.initial:
            return dense
        row = blocks(self.space, self.limits, self.initial, self.seed, at, self.space.encode(dense))
        return dense if row is None else self.space.decode(row)

    def _repeats(self, points: Sequence[Mapping[str, Any]]) -> int:
        """How often the default was repeated before anything else: no member of the design is left out."""
        first = sum(1 for _ in takewhile(lambda point: not self.space.changed(point), points))
        if first < 2 or not self.space.changed(self._designed(1)):  # in a small space the design repeats it
            return 0
        return first - 1

    @property
    def _in_blocks(self) -> bool:
        if not self.config.prune or self.config.design == "sobol":
            return False
        return self.config.design == "blocks" or len(self.space.names) >= FROM

    # --- the two kinds of proposal ----------------------------------------------------------------

    def _sobol(self, at: int) -> dict[str, Any]:
        """Member ``at`` of the scrambled Sobol points that meet the limits, and of a walk within them when
        these are used up."""
        engine = torch.quasirandom.SobolEngine(self.space.width, scramble=True, seed=self.seed)
        if not self.space.limits:
            engine.fast_forward(at)
            return self.space.decode(engine.draw(1, dtype=torch.float64)[0].numpy())
        met = -1
        for _ in range(10_000):
            point = self.space.decode(engine.draw(1, dtype=torch.float64)[0].numpy())
            met += self.space.allows(point)
            if met == at:
                return point
        walked = walk(self.space, np.random.default_rng(self.seed))
        return next(islice(walked, at - met - 1, None))

    def _model_based(
        self, known: Knowledge, taken: Sequence[Mapping[str, Any]], i: int, at: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Member ``i`` of a batch, the trial with number ``at``."""
        space, config, seed = self.space, self.config, self.seed + at
        if known.model is None:
            only = OnlyFeasibility(known.feasibility)
            anywhere = within_reach(space, self.default[None], 1.0)
            x = dense_step(only, space, self.limits, config, self.default[None], anywhere, seed)[0]
            return space.decode(x.numpy()), {"origin": "feasibility"}
        sparse = config.explore == "sparse" and config.schedule != "no_regret"
        if self._explores(at) and sparse and known.Y.shape[1] == 1:
            x = self._sparser_incumbent(known)
            if x is not None:
                point = space.decode(x.numpy())
                return point, {"origin": "incumbent", "changed": len(space.changed(point))}
        pending = torch.stack([torch.as_tensor(space.encode(point)) for point in taken]) if taken else None
        acquisition = build(config, known.model, known.X, known.Y, pending, known.feasibility, seed)
        anchors = torch.cat([self.default[None], known.top(_ANCHORS)])
        box = within_reach(space, anchors[:2], config.reach)
        dense = dense_step(acquisition, space, self.limits, config, anchors, box, seed)
        if not config.prune or (self._explores(at) and config.explore == "dense"):
            return space.decode(dense[0].numpy()), {"origin": "dense"}
        last = pending[-1:] if i > 0 and pending is not None else None
        pruned = self._prune(acquisition, dense, box, known, last, at)
        x, origin = self.limits.admit(pruned.x), "pruned"
        if self._stalled(known, pruned.gain):
            x, origin = self._beyond(acquisition, dense, box, known, at)
        point = space.decode(x.numpy())
        return point, {
            "origin": origin,
            "gain": pruned.gain * float(known.unit.prod()),
            "losses": {space.names[g]: loss for g, loss in pruned.losses.items()}
            if origin == "pruned"
            else {},
            "changed_dense": len(space.changed(space.decode(dense[0].numpy()))),
            "changed": len(space.changed(point)),
        }

    def _sparser_incumbent(self, known: Knowledge) -> Tensor | None:
        """The best measured point without the changes that are expected to do nothing; None where that point
        is known already, or was tried in vain with other changes put back."""
        delta = tolerated(known, self.default, self.config.loss_share)
        pruned = prune_incumbent(self.space, known, self.limits, delta, _EVEN)
        return None if pruned.known or pruned.doubted else pruned.x

    def _explores(self, at: int) -> bool:
        every = self.config.dense_every
        return every > 0 and at % every == every - 1

    # --- pieces -----------------------------------------------------------------------------------

    def _prune(
        self,
        acquisition: Acquisition,
        dense: Tensor,
        box: Tensor,
        known: Knowledge,
        last: Tensor | None,
        at: int,
    ) -> Reverted:
        """The cheapest in changes of the pruned local optima; among equals the one worth most.

        last: the batch's member before this one, against which the gain of this one is measured.
        """
        config = self.config
        unit = float(acquisition.plain(dense[:1])[0]) if acquisition.is_log else 0.0

        def evaluate(X: Tensor) -> Tensor:
            return acquisition.natural(X, unit)

        base = 0.0
        if config.baseline == "observed_max":
            base = float(evaluate(known.X if last is None else last).max())
        elif config.baseline == "default":
            base = float(evaluate(self.default[None])[0])
        rho, share = config.rho, config.delta_share
        if config.schedule == "no_regret":
            rho, share = rho / max(1.0, at - self.initial + 1) ** 0.5, 0.0
        costs = [parameter.cost for parameter in self.space.parameters]
        absolute = config.delta / float(known.unit.prod())
        if known.Y.shape[1] == 1:  # a hypervolume is in no objective's units
            absolute = max(absolute, share * known.gain(self.default))
        delta = absolute * math.exp(min(-unit, 600.0))
        rule = partial(
            revert,
            evaluate,
            default=self.default,
            groups=self.space.groups,
            base=base,
            rho=rho,
            delta=delta,
            costs=costs,
            pin=self._pin if len(self.limits.A) or self._conditional else None,
            keep=int(known.defaults >= config.default_repeats),
        )
        found = rule(x=dense[:_PRUNED])
        admissible = [one for one in found if one.admissible] or found[:1]
        best = min(admissible, key=lambda one: (sum(costs[g] for g in one.changed), -one.value))
        if config.refine and best.admissible:
            # what is left was the best together with what went back: place it anew, and see what may go now
            x = refine(acquisition, self.space, self.limits, best.x, best.changed, box)
            best = rule(x=x[None], dense_gain=best.gain)[0]
        return replace(best, gain=best.gain * math.exp(max(unit, -600.0)))

    def _stalled(self, known: Knowledge, gain: float) -> bool:
        """Whether the model sees no gain that is worth a change."""
        share = 0.0 if self.config.schedule == "no_regret" else self.config.negligible
        return known.Y.shape[1] == 1 and gain < share * known.gain(self.default)

    def _beyond(
        self, acquisition: Acquisition, dense: Tensor, box: Tensor, known: Knowledge, at: int
    ) -> tuple[Tensor, str]:
        """Where nothing is to be gained: the best place for what the best point changes; every
        ``dense_every``-th time, and where that place was measured, what idle parameters do there."""
        incumbent = sparsest(self.space, known, tolerated(known, self.default, self.config.loss_share))
        x = polished(acquisition, self.space, self.limits, incumbent, dense[:_PRUNED], box)
        if self._explores(at) or known.measured(x):
            return widened(self.space, self.limits, known, incumbent, (self.seed, at)), "widened"
        return x, "polished"

    def _pin(self, x: Tensor, group: int, pinned: frozenset[int]) -> Tensor | None:
        """Within the limits, and with what no longer matters at its default."""
        near = self.limits.pin(x, group, pinned)
        if near is None or not self._conditional:
            return near
        settled = torch.as_tensor(self.space.encode(self.space.decode(near.numpy())))
        return settled if self.limits.holds(settled) else None

    @property
    def _conditional(self) -> bool:
        return any(parameter.when for parameter in self.space.parameters)


def plain_bo(config: BonsaiConfig, space: Space, seed: int) -> Bonsai:
    """Bayesian optimisation without pruning: the same surrogate, acquisition and optimiser."""
    return Bonsai(config.model_copy(update={"prune": False, "reach": 1.0}), space, seed)
