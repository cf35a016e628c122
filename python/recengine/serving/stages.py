"""What each of two stages does for the recall: what is found at all, what is kept, gained and lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.errors import UsageError
from recengine.evaluation import Evaluation, Protocol
from recengine.evaluation.evaluator import hits_of, measure, protocol_of
from recengine.evaluation.lists import Block, parse_memory, positions_of, ranked_lists
from recengine.evaluation.metrics import resolve_metrics
from recengine.evaluation.result import Estimate, estimate
from recengine.serving.second_stage import SecondStage
from recengine.training import Run

METRICS = ("recall", "ndcg", "hr", "mrr")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Stages:
    """k: length of the lists. top: how many are put in order. first, second: the lists of k of each stage.
    shares: float64 a user (NaN without targets), shares of the user's targets:

    * found: among the first ``top`` of the first stage: what the second can reach
    * before: among the first k of the first stage
    * kept: of these, still among the first k after the second
    * lost: of these, no longer
    * gained: among the first k after the second only
    * after: kept + gained
    """

    k: int
    top: int
    first: Evaluation
    second: Evaluation
    shares: dict[str, Values]

    def summary(self) -> list[Estimate]:
        """Mean and 95 % t interval over users of each share."""
        made = [estimate(name, values) for name, values in self.shares.items()]
        return [one for one in made if one is not None]


def stages_protocol(
    retriever: Run, task: str = "test", *, k: int = 10, top: int = 100, knows_validation: bool = False
) -> Protocol:
    """What ``measure_stages`` would ask, without a ranker.

    Raises UsageError for another task than 'test' or 'validation', for the validation task where the ranker
    learns from it (knows_validation), and for k above what the first stage retrieves.
    """
    if not 1 <= k <= top:
        raise UsageError(
            "a list is no longer than what was retrieved", where="k", found=k, expected=f"1 to {top}"
        )
    if task == "validation" and knows_validation:
        raise UsageError(
            "the ranker learns from the validation users and cannot be measured on them",
            where="task",
            found=task,
            expected="test",
            fix="measure on the test task, or bring a click model that was fitted on another log",
        )
    return protocol_of(retriever.split, task, metrics=METRICS, cutoffs=(k,))


def measure_stages(
    stages: SecondStage, task: str = "test", *, k: int = 10, memory: str | int = "256MiB"
) -> Stages:
    """Ask both stages for the task ('test' or 'validation') of the retriever's split.

    Raises UsageError for what ``stages_protocol`` refuses; DataError for users of the task without features.
    """
    split = stages.retriever.split
    protocol = stages_protocol(
        stages.retriever, task, k=k, top=stages.top, knows_validation=stages.knows_validation
    )
    asked = split.test if task == "test" else split.validation
    assert asked is not None  # protocol_of told
    model = stages.retriever.model.eval()
    with torch.inference_mode():
        before = list(ranked_lists(model, asked, protocol, stages.top, parse_memory(memory)))
    after = [Block(b.begin, b.end, stages.order(asked.users[b.begin : b.end], b.items)[0]) for b in before]
    shares = {name: np.full(len(asked), np.nan) for name in _NAMES}
    for one, two in zip(before, after, strict=True):
        targets, indptr = positions_of(asked, one.begin, one.end)
        hits = [hits_of(block.items, targets, indptr, asked.history.n_items) for block in (one, two)]
        wanted = np.diff(indptr)
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, count in _counted(one.items, two.items, hits, k).items():
                shares[name][one.begin : one.end] = np.where(wanted > 0, count / wanted, np.nan)
    columns = resolve_metrics(METRICS, (k,))
    first, second = (measure(iter(blocks), asked, protocol, columns) for blocks in (before, after))
    return Stages(k, stages.top, first, second, shares)


_NAMES = ("found", "before", "kept", "lost", "gained", "after")


def _counted(
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    hits: Sequence[NDArray[np.bool_]],
    k: int,
) -> dict[str, NDArray[np.int64]]:
    """Targets a user by what became of them; lists hold an item once."""
    hit_before, hit_after = hits
    old = np.where(hit_before[:, :k], before[:, :k], -1)
    new = np.where(hit_after[:, :k], after[:, :k], -2)
    kept = (old[:, :, None] == new[:, None, :]).any(2).sum(1)
    n_old, n_new = hit_before[:, :k].sum(1), hit_after[:, :k].sum(1)
    counts = (hit_before.sum(1), n_old, kept, n_old - kept, n_new - kept, n_new)
    return dict(zip(_NAMES, counts, strict=True))
