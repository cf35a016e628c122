"""From a model to ranked lists: vectors through the fused top-k, else dense scores, else generated ids."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import Generates, Represents, ScoresItems, Trainable
from recengine.data import EvalTask
from recengine.data.interactions import Histories, ragged_positions
from recengine.errors import ConfigError, PluginError, RecengineError, UsageError
from recengine.evaluation.candidates import sampled_candidates
from recengine.evaluation.protocol import Protocol
from recengine.ops import rank_of, topk

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MOST_USERS = 8192  # of a block, so that progress can be told
_ACTIVATIONS = 48  # floats a dimension that a model may hold for an event of a history
_OVERFLOWS = math.sqrt(torch.finfo(torch.float32).max)  # the product of two larger weights is infinite

Ids = NDArray[np.int64]


def parse_memory(memory: str | int) -> int:
    """Bytes of '256MiB', '1.5 GB' or a number. Raises ConfigError."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", str(memory))
    if not found or found[2].lower() not in _UNITS or float(found[1]) <= 0:
        raise ConfigError(
            "not an amount of memory", where="memory", found=repr(memory), expected="like '256MiB' or '2GB'"
        )
    return int(float(found[1]) * _UNITS[found[2].lower()])


@dataclass(frozen=True)
class Block:
    """Users begin .. end of the task, and their lists: int64 [end - begin, k], -1 where shorter. places:
    where they were asked for, the place of each user's only target (1 is first, 0 never retrieved), and
    n_ranked, among how many items."""

    begin: int
    end: int
    items: Ids
    places: Ids | None = None
    n_ranked: Ids | None = None


def ranked_lists(
    model: Any,
    task: EvalTask,
    protocol: Protocol,
    k: int,
    memory: int,
    device: torch.device | None = None,
    places: bool = False,
) -> Iterator[Block]:
    """The first k items of every user of the task, block by block within about ``memory`` bytes; with
    ``places`` the exact place of each user's only target as well.

    Raises UsageError when the model can neither represent, score nor generate, cannot rank sampled
    candidates, or places are asked for and a user has no or several targets.
    """
    device = device or device_of(model)
    if protocol.sampled is not None:
        rank: _Ranker = _Sampled(model, task, protocol, device)
    elif isinstance(model, Represents):
        rank = _ByVectors(model, task, memory, device)
    elif isinstance(model, ScoresItems):
        rank = _ByScores(model, task)
    elif isinstance(model, Generates):
        rank = _ByGeneration(model, task)
    else:
        raise UsageError(
            "this model cannot recommend",
            where=type(model).__name__,
            expected="user_vectors and item_vectors, or score_items, or generate (recengine.contracts.model)",
        )
    budget = Budget(memory, rank.bytes_per_user, rank.bytes_per_event)
    for begin, end in budget.runs(task.history.lengths()[task.users]):
        histories = task.history.history(task.users[begin:end])
        batch = to_device(histories, device)
        if not places:
            yield Block(begin, end, rank(batch, k, begin, protocol.mask_history)[0])
            continue
        targets = torch.from_numpy(only_targets(task, begin, end)).to(device)
        items, counted, n_ranked = rank(batch, k, begin, protocol.mask_history, targets)
        yield Block(begin, end, items, counted, n_ranked)


def only_targets(task: EvalTask, begin: int, end: int) -> Ids:
    """int64 [end - begin]: the one distinct target of each user. Raises UsageError where there is not one."""
    targets, indptr = positions_of(task, begin, end)
    off = np.flatnonzero(np.diff(indptr) != 1)
    if off.size:
        row = int(task.users[begin + int(off[0])])
        raise UsageError(
            "the place of the target is defined for one target a user",
            where=f"task '{task.name}'",
            found=f"user {task.history.users.tokens[row]!r} has {int(np.diff(indptr)[off[0]])}",
            fix="leave out the metrics without a cut-off, or split with one target a user (leave-one-out)",
        )
    return targets


@dataclass(frozen=True)
class Budget:
    """Bytes that may be held, and what a user and an event of the history (``longest`` at most) cost."""

    memory: int
    per_user: int
    per_event: int
    longest: int | None = None

    def runs(self, lengths: Ids) -> Iterator[tuple[int, int]]:
        """begin and end of runs of users that keep to the budget (one user at least)."""
        counted = lengths if self.longest is None else np.minimum(lengths, self.longest)
        cost = np.concatenate([np.zeros(1), np.cumsum(self.per_user + counted * float(self.per_event))])
        begin = 0
        while begin < lengths.shape[0]:
            end = int(np.searchsorted(cost, cost[begin] + self.memory, side="right")) - 1
            end = min(max(end, begin + 1), begin + _MOST_USERS, lengths.shape[0])
            yield begin, end
            begin = end


def part_of(batch: HistoryBatch, begin: int, end: int) -> HistoryBatch:
    """Users begin .. end of a batch."""
    if begin == 0 and end == len(batch):
        return batch
    first, last = int(batch.offsets[begin]), int(batch.offsets[end])
    times = None if batch.times is None else batch.times[first:last]
    offsets = batch.offsets[begin : end + 1] - first
    return HistoryBatch(batch.users[begin:end], batch.items[first:last], offsets, times)


def device_of(model: Any) -> torch.device:
    """Where the model's first parameter or buffer is; the processor for a model without any."""
    if isinstance(model, torch.nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def to_device(histories: Histories, device: torch.device) -> HistoryBatch:
    given: dict[str, Any] = {
        name: None if value is None else value.to(device) for name, value in histories.tensors().items()
    }
    return HistoryBatch(**given)


def sorted_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, equal ones by smaller column, NaN and -inf as id -1: (scores, ids).

    torch.topk leaves the order of equal values open, so rows whose k-th value occurs again outside the
    chosen ones are chosen again by column.
    """
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    kept = min(k, scores.shape[1])
    values, ids = scores.topk(kept, dim=1) if kept else (scores[:, :0], scores[:, :0].long())
    if kept and kept < scores.shape[1]:
        last = values[:, -1:]
        tied = ((scores >= last).sum(dim=1) > kept).nonzero().squeeze(1)
        if tied.numel():
            ids[tied] = _first_of_ties(scores[tied], last[tied], kept)
    ids = ids.sort(dim=1).values
    values, order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True)
    ids = torch.where(values > -torch.inf, ids.gather(1, order), -1)
    short = k - kept
    if short:
        values = torch.nn.functional.pad(values, (0, short), value=-torch.inf)
        ids = torch.nn.functional.pad(ids, (0, short), value=-1)
    return values, ids


def _first_of_ties(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Columns of everything above ``last``, then of the first equal to it: k a row, in no order."""
    column = torch.arange(scores.shape[1], device=scores.device)
    place = torch.where(scores > last, column - scores.shape[1], torch.where(scores == last, column, 2**62))
    chosen = place.topk(k, dim=1, largest=False).values
    return torch.where(chosen < 0, chosen + scores.shape[1], chosen)


Ranking = tuple[Ids, "Ids | None", "Ids | None"]  # lists; places of the targets and among how many


class _Ranker:
    """Lists of a block of users, and the places of their targets where these are given. bytes_per_user and
    bytes_per_event say what a block costs."""

    bytes_per_user: int
    bytes_per_event: int

    def __call__(
        self, batch: HistoryBatch, k: int, begin: int, mask: bool, targets: Tensor | None = None
    ) -> Ranking:
        raise NotImplementedError


def checked_vectors(model: Any, vectors: Tensor, name: str) -> Tensor:
    """``vectors`` [n, d] as they are. Raises PluginError where one is not finite: it gives no order;
    RecengineError where the weights are not, or overflow, since training diverged then."""
    if vectors.dim() != 2 or not bool(torch.isfinite(vectors).all()):
        raise _no_answer(model, name, vectors, "[n, d]")
    return vectors


def checked_scores(model: Any, scores: Tensor) -> Tensor:
    """``scores`` [B, n] as they are. Raises PluginError where one is NaN: no order follows from it;
    RecengineError where the weights are not finite, or overflow, since training diverged then."""
    if scores.dim() != 2 or (scores.numel() and bool(scores.amax().isnan())):
        raise _no_answer(model, "score_items", scores, "[B, n]")
    return scores


def _no_answer(model: Any, name: str, values: Tensor, shape: str) -> RecengineError:
    wrong_shape = values.dim() != 2
    largest = _largest_weight(model)
    if not wrong_shape and not largest <= _OVERFLOWS:  # nor where it is NaN
        finite = math.isfinite(largest)
        return RecengineError(
            "training diverged",
            where=f"{type(model).__name__}.{name}",
            found=f"weights up to {largest:.0e}" if finite else "NaN or infinity among the weights",
            expected="finite weights, and products of them that are",
            fix="fit it again with a lower training.learning_rate, or with training.clip_norm",
        )
    rate = "training.learning_rate" if isinstance(model, Trainable) else "learning rate"
    return PluginError(
        f"{type(model).__name__}.{name} gives no ranking",
        found=f"shape {list(values.shape)}" if wrong_shape else "NaN or infinity",
        expected=f"numbers of the shape {shape}",
        fix=None if wrong_shape else f"fit it again with a lower {rate}, or mend the model",
    )


def _largest_weight(model: Any) -> float:
    """The largest magnitude among what gradient steps have moved, 0 without weights; NaN where one is NaN."""
    weights = list(model.parameters()) if isinstance(model, torch.nn.Module) else []
    sizes = [weight.detach().abs().amax().double().cpu() for weight in weights if weight.numel()]
    return float(torch.stack(sizes).amax()) if sizes else 0.0


class _ByVectors(_Ranker):
    """Vectors are made for few users at a time (a sequence model holds activations for every event), the
    top-k for many (each call reads all items once)."""

    def __init__(self, model: Represents, task: EvalTask, memory: int, device: torch.device) -> None:
        self.model = model
        self.items, self.bias = model.item_vectors(), model.item_bias()
        _same_items(model, self.items.shape[0], task)
        checked_vectors(model, self.items, "item_vectors")
        if self.items.dtype == torch.float16 and device.type == "cpu":
            self.items = self.items.float()
        width = int(self.items.shape[1])
        self.bytes_per_user, self.bytes_per_event = 4096 + 16 * width, 32
        longest = model.feed().max_length if isinstance(model, Trainable) else None
        self.vectors = Budget(memory, 1024, 4 * _ACTIVATIONS * min(width, 512), longest)

    def __call__(
        self, batch: HistoryBatch, k: int, begin: int, mask: bool, targets: Tensor | None = None
    ) -> Ranking:
        parts = [
            self.model.user_vectors(part_of(batch, a, b)).to(self.items.dtype)
            for a, b in self.vectors.runs(batch.offsets.diff().cpu().numpy())
        ]
        queries = checked_vectors(
            self.model, parts[0] if len(parts) == 1 else torch.cat(parts), "user_vectors"
        )
        seen: dict[str, Tensor] = {}
        if mask:
            seen = {"seen_indptr": batch.offsets, "seen_items": batch.items}
        items = _ids(topk(queries, self.items, k, bias=self.bias, **seen)[1])
        if targets is None:
            return items, None, None
        before = rank_of(queries, self.items, targets, bias=self.bias, **seen)
        return items, _ids(before + 1), _n_ranked(batch, self.items.shape[0], mask, targets)


class _ByScores(_Ranker):
    def __init__(self, model: ScoresItems, task: EvalTask) -> None:
        self.model, self.task = model, task
        self.bytes_per_user = 24 * task.history.n_items + 4096
        self.bytes_per_event = 64

    def __call__(
        self, batch: HistoryBatch, k: int, begin: int, mask: bool, targets: Tensor | None = None
    ) -> Ranking:
        scores = checked_scores(self.model, self.model.score_items(batch))
        _same_items(self.model, scores.shape[1], self.task)
        own = None if targets is None else scores.gather(1, targets[:, None])
        if mask:
            rows = torch.repeat_interleave(batch.offsets.diff())
            scores = scores.index_put((rows, batch.items), scores.new_tensor(-torch.inf))
        items = _ids(sorted_topk(scores, k)[1])
        if targets is None or own is None:
            return items, None, None
        column = torch.arange(scores.shape[1], device=scores.device)
        places = _places(scores, own, column < targets[:, None], column == targets[:, None])
        return items, places, _n_ranked(batch, scores.shape[1], mask, targets)


class _ByGeneration(_Ranker):
    """Asks for more than k and drops what was seen, repeats, and places without an item."""

    def __init__(self, model: Generates, task: EvalTask) -> None:
        self.model, self.n_items = model, task.history.n_items
        self.bytes_per_user, self.bytes_per_event = 1 << 20, 1 << 12

    def __call__(
        self, batch: HistoryBatch, k: int, begin: int, mask: bool, targets: Tensor | None = None
    ) -> Ranking:
        if targets is not None:
            raise UsageError(
                "a model that only generates lists has no place for every item",
                where="metrics",
                fix="leave out the metrics without a cut-off (place, full_mrr, full_ndcg, full_auc)",
            )
        ids = _ids(self.model.generate(batch, min(2 * k + 10, max(self.n_items, 1)))[0])
        offsets, items = _ids(batch.offsets), _ids(batch.items)
        found = np.full((ids.shape[0], k), -1, np.int64)
        for row, listed in enumerate(ids):
            left_out = set(items[offsets[row] : offsets[row + 1]].tolist()) if mask else set()
            kept = [item for item in dict.fromkeys(listed.tolist()) if item >= 0 and item not in left_out][:k]
            found[row, : len(kept)] = kept
        return found, None, None


class _Sampled(_Ranker):
    """The targets of each user among sampled items."""

    def __init__(self, model: Any, task: EvalTask, protocol: Protocol, device: torch.device) -> None:
        assert protocol.sampled is not None
        self.model, self.task, self.protocol = model, task, protocol
        n = protocol.sampled[1]
        if n >= task.history.n_items:
            raise UsageError(
                "there are no more items than candidates to sample",
                where="protocol.candidates",
                found=f"{protocol.candidates!r} of {task.history.n_items} items",
                fix="ask for fewer, or for 'full', which ranks all of them",
            )
        if isinstance(model, Represents):
            self.items, self.bias = model.item_vectors(), model.item_bias()
            checked_vectors(model, self.items, "item_vectors")
            self.bytes_per_user = 8 * (n + 16) * int(self.items.shape[1])
        elif isinstance(model, ScoresItems):
            self.bytes_per_user = 16 * task.history.n_items
        else:
            raise UsageError(
                "a model that only generates cannot rank sampled candidates",
                where="protocol.candidates",
                fix="evaluate it with candidates='full'",
            )
        self.bytes_per_user += 4096
        self.bytes_per_event = 32 + 4 * _ACTIVATIONS * 64

    def __call__(
        self, batch: HistoryBatch, k: int, begin: int, mask: bool, targets: Tensor | None = None
    ) -> Ranking:
        rows = slice(begin, begin + len(batch))
        drawn = sampled_candidates(self.task, rows, self.protocol)
        candidates = torch.from_numpy(drawn).to(batch.items.device)
        known = candidates.clamp(min=0)
        if isinstance(self.model, Represents):
            queries = checked_vectors(self.model, self.model.user_vectors(batch), "user_vectors")
            queries = queries.to(self.items.dtype)
            scores = torch.einsum("bd,bcd->bc", queries, self.items[known]).float()
            if self.bias is not None:
                scores = scores + self.bias[known]
        else:
            scores = checked_scores(self.model, self.model.score_items(batch)).gather(1, known)
        scores = torch.where(candidates < 0, -torch.inf, scores)  # columns ascend in the item, so ties do
        order = sorted_topk(scores, k)[1]
        items = _ids(torch.where(order < 0, -1, candidates.gather(1, order.clamp(min=0))))
        if targets is None:
            return items, None, None
        wanted = targets[:, None]
        own = torch.where(candidates == wanted, scores, -torch.inf).amax(1, keepdim=True)
        places = _places(scores, own, known < wanted, candidates == wanted)
        return items, places, _ids((candidates >= 0).sum(1))


def _places(scores: Tensor, own: Tensor, earlier: Tensor, itself: Tensor) -> Ids:
    """1 + how many columns come before the target's score: higher, or equal and ``earlier``; 0 where the own
    score is NaN or -inf. scores, earlier, itself: [B, C]; own: [B, 1]."""
    before = ((scores > own) | ((scores == own) & earlier & (scores > -torch.inf))) & ~itself
    return _ids(torch.where(own[:, 0] > -torch.inf, before.sum(1) + 1, 0))


def _n_ranked(batch: HistoryBatch, n_items: int, mask: bool, targets: Tensor) -> Ids:
    """int64 [B], how many items a user can be given, the target among them."""
    if not mask:
        return np.full(len(batch), n_items, np.int64)
    rows = torch.repeat_interleave(batch.offsets.diff())
    others = batch.items != targets[rows]
    keys = torch.unique(rows[others] * n_items + batch.items[others])
    return n_items - _ids(torch.bincount(keys // max(n_items, 1), minlength=len(batch)))


def _same_items(model: object, n_items: int, task: EvalTask) -> None:
    if n_items != task.history.n_items:
        raise UsageError(
            "the model and the task know other items",
            where=type(model).__name__,
            found=f"{n_items} items",
            expected=f"{task.history.n_items}, the vocabulary of the task",
        )


def _ids(tensor: Tensor) -> Ids:
    return np.asarray(tensor.cpu().numpy(), np.int64)


def positions_of(task: EvalTask, begin: int, end: int) -> tuple[Ids, Ids]:
    """Distinct targets of users begin .. end, ascending a user, and their offsets [end - begin + 1]."""
    counts = np.diff(task.indptr)[begin:end]
    at, _ = ragged_positions(task.indptr[begin:end], counts)
    owner = np.repeat(np.arange(end - begin), counts)
    keys = np.unique(owner * max(task.history.n_items, 1) + task.targets[at])
    owner, items = np.divmod(keys, max(task.history.n_items, 1))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(owner, minlength=end - begin))])
    return items.astype(np.int64), offsets.astype(np.int64)


Progress = Callable[[int, int], None]
