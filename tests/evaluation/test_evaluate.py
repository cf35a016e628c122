"""Evaluate: every way to rank, blocks, shards, masks, sampled candidates, protocol, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recengine import fit
from recengine.contracts.batch import HistoryBatch
from recengine.data import EvalTask, Interactions, Split
from recengine.errors import ConfigError, DataError, PluginError, RecengineError, UsageError
from recengine.evaluation import (
    Evaluation,
    Protocol,
    bootstrap_interval,
    by_history_length,
    by_target_popularity,
    evaluate,
    t_interval,
)
from recengine.evaluation.candidates import sampled_candidates
from recengine.evaluation.lists import parse_memory, sorted_topk
from recengine.testing.worlds import planted

USERS, ITEMS, WIDTH = 60, 300, 6


class Vectors:
    """Represents: integer vectors, so that every way to compute a score is exact and ties are frequent."""

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.users = torch.randint(-3, 4, (USERS, WIDTH), generator=g).float()
        self.items = torch.randint(-3, 4, (ITEMS, WIDTH), generator=g).float()
        self.bias = torch.randint(-2, 3, (ITEMS,), generator=g).float()

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        return self.users[histories.users]

    def item_vectors(self) -> Tensor:
        return self.items

    def item_bias(self) -> Tensor | None:
        return self.bias


class Scores:
    """ScoresItems: the same scores."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def score_items(self, histories: HistoryBatch) -> Tensor:
        return self.vectors.users[histories.users] @ self.vectors.items.T + self.vectors.bias


class Writer:
    """Generates: the same items, seen ones and repeats included."""

    def __init__(self, vectors: Vectors) -> None:
        self.scores = Scores(vectors)

    def generate(self, histories: HistoryBatch, k: int) -> tuple[Tensor, Tensor]:
        values, ids = sorted_topk(self.scores.score_items(histories), ITEMS)
        ids = ids.repeat_interleave(2, dim=1)
        return ids, values.repeat_interleave(2, dim=1)


@pytest.fixture(scope="module")
def task() -> EvalTask:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, USERS)
    lengths[:5] = [0, 1, 5, 6, 21]
    user = np.repeat(np.arange(USERS), lengths)
    item = rng.integers(0, ITEMS, lengths.sum())
    history = Interactions.from_rows(
        user.astype(np.int32),
        item.astype(np.int32),
        None,
        None,
        *(_vocabulary(f"u{i:03}" for i in range(USERS)), _vocabulary(f"i{i:03}" for i in range(ITEMS))),
    )
    counts = rng.integers(0, 4, USERS)
    targets = np.concatenate([rng.choice(ITEMS, n, replace=False) for n in counts])
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return EvalTask("test", np.arange(USERS), indptr.astype(np.int64), targets.astype(np.int64), history)


def _vocabulary(tokens: Any) -> Any:
    from recengine.data import Vocabulary

    return Vocabulary(np.array(list(tokens)))


def plain(model: Vectors, task: EvalTask, k: int, mask: bool = True) -> np.ndarray:
    """Lists by a full sort of float64 scores, user by user."""
    scores = (model.users.double() @ model.items.double().T + model.bias.double()).numpy()
    found = []
    for row, user in zip(scores, task.users, strict=True):
        seen = set(task.history.item[task.history.indptr[user] : task.history.indptr[user + 1]].tolist())
        order = sorted(range(ITEMS), key=lambda i: (-row[i], i))
        found.append([i for i in order if not (mask and i in seen)][:k])
    return np.array(found)


@pytest.mark.parametrize("mask", [True, False])
def test_means_by_hand(task: EvalTask, mask: bool) -> None:
    model = Vectors()
    found = evaluate(
        model, task, metrics=["hr", "ndcg", "coverage"], cutoffs=(5, 20), protocol=Protocol(mask_history=mask)
    )
    top = plain(model, task, 20, mask)
    for k in (5, 20):
        hr, ndcg = [], []
        for u in range(USERS):
            wanted = set(task.targets[task.indptr[u] : task.indptr[u + 1]].tolist())
            if not wanted:
                continue
            hits = [i in wanted for i in top[u, :k].tolist()]
            ideal = sum(1 / np.log2(r + 2) for r in range(min(k, len(wanted))))
            hr.append(any(hits))
            ndcg.append(sum(h / np.log2(r + 2) for r, h in enumerate(hits)) / ideal)
        assert found[f"hr@{k}"] == pytest.approx(np.mean(hr), abs=1e-12)
        assert found[f"ndcg@{k}"] == pytest.approx(np.mean(ndcg), abs=1e-12)
        assert found[f"coverage@{k}"] == len(set(top[:, :k].ravel().tolist())) / ITEMS
    assert {one.metric: one.n for one in found.summary()}["hr@5"] == int((np.diff(task.indptr) > 0).sum())


def one_target_each(task: EvalTask) -> EvalTask:
    """The same users with one target each, seen ones among them."""
    targets = np.random.default_rng(3).integers(0, ITEMS, USERS)
    targets[7] = task.history.item[task.history.indptr[7]]
    return EvalTask("test", task.users, np.arange(USERS + 1), targets, task.history)


PLACES = ["place", "full_mrr", "full_ndcg", "full_auc"]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("ability", [lambda v: v, Scores])
def test_exact_places_by_hand(task: EvalTask, mask: bool, ability: Any) -> None:
    model, single = Vectors(), one_target_each(task)
    found = evaluate(
        ability(model), single, metrics=PLACES, protocol=Protocol(mask_history=mask), memory=9000
    )
    scores = (model.users @ model.items.T + model.bias).numpy()
    for u, target in enumerate(single.targets.tolist()):
        bounds = task.history.indptr[u : u + 2]
        seen = set(task.history.item[bounds[0] : bounds[1]].tolist()) - {target} if mask else set()
        rest = [i for i in range(ITEMS) if i not in seen]
        place = 1 + sorted(rest, key=lambda i: (-scores[u, i], i)).index(target)
        assert found.values("place")[u] == place
        assert found.values("full_mrr")[u] == pytest.approx(1 / place)
        assert found.values("full_ndcg")[u] == pytest.approx(1 / np.log2(1 + place))
        assert found.values("full_auc")[u] == pytest.approx((len(rest) - place) / (len(rest) - 1))


def test_places_agree_with_lists(task: EvalTask) -> None:
    single = one_target_each(task)
    found = evaluate(Vectors(), single, metrics=["place", "hr", "mrr"], cutoffs=(10,))
    met = np.array([len(set(task.history.item[a:b]) & {t}) for a, b, t in _bounds(single)], bool)
    place = found.values("place")
    np.testing.assert_array_equal(found.values("hr@10")[~met], (place <= 10)[~met])
    np.testing.assert_allclose(found.values("mrr@10")[~met], np.where(place <= 10, 1 / place, 0)[~met])
    assert found.protocol.cutoffs == (10,)
    assert set(found.protocol.metrics) == {"place", "hr@10", "mrr@10"}


def _bounds(task: EvalTask) -> list[tuple[int, int, int]]:
    ends = task.history.indptr
    return [(ends[u], ends[u + 1], t) for u, t in zip(task.users, task.targets, strict=True)]


def test_places_among_sampled_candidates(task: EvalTask) -> None:
    single, protocol = one_target_each(task), Protocol(candidates="uniform-40")
    by_vectors = evaluate(Vectors(), single, metrics=PLACES, protocol=protocol)
    by_scores = evaluate(Scores(Vectors()), single, metrics=PLACES, protocol=protocol)
    for name in PLACES:
        np.testing.assert_array_equal(by_vectors.values(name), by_scores.values(name))
    drawn = sampled_candidates(single, slice(0, USERS), protocol)
    scores = (Vectors().users @ Vectors().items.T + Vectors().bias).numpy()
    for u, target in enumerate(single.targets.tolist()):
        others = [i for i in drawn[u].tolist() if i not in (-1, target)]
        before = sum((-scores[u, i], i) < (-scores[u, target], target) for i in others)
        assert by_vectors.values("place")[u] == 1 + before


def test_places_need_one_target_and_scores(task: EvalTask) -> None:
    with pytest.raises(UsageError, match="one target a user"):
        evaluate(Vectors(), task, metrics=["place"])
    with pytest.raises(UsageError, match="only generates"):
        evaluate(Writer(Vectors()), one_target_each(task), metrics=["full_mrr"])
    with pytest.raises(UsageError, match="no cut-off"):
        evaluate(Vectors(), one_target_each(task), metrics=["full_mrr@10"])


def test_a_target_without_a_score_is_last(task: EvalTask) -> None:
    model, single = Vectors(), one_target_each(task)
    model.bias[int(single.targets[0])] = -torch.inf
    found = evaluate(model, single, metrics=PLACES)
    assert found.values("full_mrr")[0] == found.values("full_auc")[0] == 0
    assert found.values("place")[0] > 200


def test_every_ability_gives_the_same(task: EvalTask) -> None:
    model = Vectors()
    metrics = ["ndcg", "map", "novelty", "diversity", "tail_ndcg", "gini"]
    by_vectors = evaluate(model, task, metrics=metrics, cutoffs=(7,))
    for other in (Scores(model), Writer(model)):
        again = evaluate(other, task, metrics=metrics, cutoffs=(7,))
        assert again.per_user.equals(by_vectors.per_user, null_equal=True)
        assert again.catalogue == by_vectors.catalogue
        assert again.protocol.hash == by_vectors.protocol.hash


def test_memory_decides_no_number(task: EvalTask) -> None:
    for model in (Vectors(), Scores(Vectors())):
        whole = evaluate(model, task)
        calls: list[int] = []
        pieces = evaluate(model, task, memory="20kB", progress=lambda done, _, said=calls: said.append(done))
        assert len(calls) > 3
        assert calls[-1] == USERS
        assert pieces.per_user.equals(whole.per_user, null_equal=True)
        assert pieces.catalogue == whole.catalogue


def shard(task: EvalTask, rows: np.ndarray) -> EvalTask:
    counts = np.diff(task.indptr)[rows]
    targets = [task.targets[task.indptr[r] : task.indptr[r + 1]] for r in rows]
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return replace(task, users=task.users[rows], indptr=indptr, targets=np.concatenate(targets))


def test_shards_merge_to_identical_numbers(task: EvalTask, tmp_path: Path) -> None:
    model = Vectors()
    whole = evaluate(model, task)
    asked = Protocol(data=whole.protocol.data)
    parts = [evaluate(model, shard(task, np.arange(r, USERS, 3)), protocol=asked) for r in range(3)]
    merged = Evaluation.merge(parts)
    assert merged.summary() == whole.summary()
    assert merged.catalogue == whole.catalogue
    assert merged.protocol.hash == whole.protocol.hash
    assert merged.per_user.equals(whole.per_user, null_equal=True)
    for i, part in enumerate(parts):  # through files, as processes would
        part.write(tmp_path / str(i))
    again = Evaluation.merge([Evaluation.read(tmp_path / str(i)) for i in (2, 0, 1)])
    assert again.summary() == whole.summary()
    assert again.catalogue == whole.catalogue
    with pytest.raises(UsageError, match="two of the parts"):
        Evaluation.merge([parts[0], parts[0]])
    with pytest.raises(UsageError, match="different questions"):
        Evaluation.merge([parts[0], evaluate(model, shard(task, np.arange(1, USERS, 3)), cutoffs=(5,))])


def test_write_and_read(task: EvalTask, tmp_path: Path) -> None:
    found = evaluate(Vectors(), task)
    found.write(tmp_path, suffix="_test")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["evaluation_test.json", "exposure_test.parquet", "per_user_test.parquet"]
    again = Evaluation.read(tmp_path, suffix="_test")
    assert again.protocol == found.protocol
    assert again.protocol.hash == found.protocol.hash
    assert again.summary() == found.summary()
    assert again.catalogue == found.catalogue
    told = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert told["protocol"].endswith(f"[{found.protocol.hash}]")
    assert pl.read_parquet(tmp_path / "per_user_test.parquet")["user"][0] == "u000"
    (tmp_path / "per_user_test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"(?s)per_user_test\.parquet: .*no whole evaluation.*fix: "):
        Evaluation.read(tmp_path, suffix="_test")


def test_a_failed_write_leaves_the_old_files(
    task: EvalTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate(Vectors(), task)
    found.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        found.write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_protocol_names_what_differs(task: EvalTask) -> None:
    model = Vectors()
    one = evaluate(model, task).protocol
    assert one.hash == evaluate(model, task).protocol.hash
    assert one.difference(one) == []
    other = evaluate(model, task, cutoffs=(5,), protocol=Protocol(mask_history=False)).protocol
    assert one.difference(other) == ["mask_history", "cutoffs", "metrics"]
    assert one.hash != other.hash
    moved = replace(task, targets=(task.targets + 1) % ITEMS)
    assert one.difference(evaluate(model, moved).protocol) == ["data"]
    split = Split(task.history, None, task, {"strategy": "leave-one-out", "seed": np.int64(3)})
    assert one.difference(evaluate(model, split).protocol) == ["split"]
    assert Protocol.from_description(other.describe()) == other
    assert "full ranking" in str(one)
    assert "NOT left out" in str(other)
    with pytest.raises(UsageError, match="candidate set"):
        Protocol(candidates="all")


def test_full_ranking_does_not_depend_on_the_seed(task: EvalTask) -> None:
    assert Protocol(seed=1).hash == Protocol(seed=2).hash
    assert Protocol(seed=1, candidates="uniform-5").hash != Protocol(seed=2, candidates="uniform-5").hash


@pytest.mark.parametrize("kind", ["uniform-50", "popularity-50"])
def test_sampled_candidates(task: EvalTask, kind: str) -> None:
    protocol = Protocol(candidates=kind)
    drawn = sampled_candidates(task, slice(0, USERS), protocol)
    for at, row in enumerate(drawn):
        user = task.users[at]
        wanted = set(task.targets[task.indptr[at] : task.indptr[at + 1]].tolist())
        seen = set(task.history.item[task.history.indptr[user] : task.history.indptr[user + 1]].tolist())
        members = row[row >= 0].tolist()
        assert members == sorted(set(members))
        assert wanted <= set(members)
        assert len(members) == 50 + len(wanted)
        assert not (set(members) - wanted) & seen
    again = sampled_candidates(task, slice(10, 20), protocol)
    assert [r[r >= 0].tolist() for r in again] == [r[r >= 0].tolist() for r in drawn[10:20]]
    model = Vectors()
    found = evaluate(model, task, protocol=protocol, metrics=["hr", "ndcg"])
    assert "SAMPLED" in str(found.protocol)
    assert (
        evaluate(Scores(model), task, protocol=protocol, metrics=["hr", "ndcg"]).summary() == found.summary()
    )
    assert found["hr@10"] > evaluate(model, task, metrics=["hr"])["hr@10"]
    with pytest.raises(UsageError, match="only generates"):
        evaluate(Writer(model), task, protocol=protocol)


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_all_items_are_no_sample(task: EvalTask, kind: str) -> None:
    evaluate(Vectors(), task, protocol=Protocol(candidates=f"{kind}-{ITEMS - 1}"))
    with pytest.raises(UsageError, match=f"{kind}-{ITEMS}' of {ITEMS} items"):
        evaluate(Vectors(), task, protocol=Protocol(candidates=f"{kind}-{ITEMS}"))


def test_popularity_sampling_follows_popularity() -> None:
    user, item = np.repeat(np.arange(40), 3), np.tile([0, 1, 2], 40)
    item[:60] = 0  # item 0 is taken most
    history = Interactions.from_arrays(np.append(user, 99), np.append(item, 5))
    task = EvalTask("t", np.full(1, 40), np.array([0, 0]), np.zeros(0, np.int64), history)
    counts = np.zeros(history.n_items)
    for seed in range(400):
        drawn = sampled_candidates(task, slice(0, 1), Protocol(candidates="popularity-1", seed=seed))
        counts[drawn[0]] += 1
    share = history.popularity()[:3] / history.popularity()[:3].sum()
    assert counts[3] == 0  # the user's own item
    np.testing.assert_allclose(counts[:3] / 400, share, atol=0.09)


def test_ties_of_dense_scores_go_to_the_smaller_row() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, torch.nan, 0.0], [-torch.inf, 0, 0, 0, 0, 0]])
    assert sorted_topk(scores, 3)[1].tolist() == [[1, 2, 3], [1, 2, 3]]
    assert sorted_topk(scores, 6)[1].tolist() == [[1, 2, 3, 0, 5, -1], [1, 2, 3, 4, 5, -1]]
    assert sorted_topk(scores, 8)[1].shape == (2, 8)
    assert sorted_topk(torch.zeros(2, 0), 2)[1].tolist() == [[-1, -1], [-1, -1]]
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 4, (50, 200), generator=generator).float()
    wanted = coarse.sort(dim=1, descending=True, stable=True).indices[:, :30]
    assert torch.equal(sorted_topk(coarse, 30)[1], wanted)


def test_slices(task: EvalTask) -> None:
    found = evaluate(Vectors(), task, metrics=["hr"])
    lengths, hr = task.history.lengths(), found.values("hr@10")
    by_length = by_history_length(found, "hr@10")
    group = (lengths >= 6) & (lengths <= 20) & ~np.isnan(hr)
    assert by_length["6-20"].mean == pytest.approx(hr[group].mean())
    assert sum(one.n for one in by_length.values()) == int((~np.isnan(hr)).sum())
    by_popularity = by_target_popularity(found, "hr@10")
    assert sum(one.n for one in by_popularity.values()) == int((~np.isnan(hr)).sum())
    with pytest.raises(UsageError, match="not measured"):
        by_history_length(found, "hr@3")


def test_intervals() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    low, high = t_interval(values)
    half = 2.7764451051977987 * np.sqrt(0.3) / np.sqrt(5)  # t of 4 degrees of freedom; s^2 = 0.3
    assert (low, high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))
    assert t_interval(np.array([0.5])) == (0.5, 0.5)
    many = np.random.default_rng(0).random(400)
    np.testing.assert_allclose(bootstrap_interval(many), t_interval(many), atol=3e-3)
    assert bootstrap_interval(many, seed=1) == bootstrap_interval(many, seed=1)


def test_nobody_and_nothing(task: EvalTask) -> None:
    none = replace(
        task, users=np.zeros(0, np.int64), indptr=np.zeros(1, np.int64), targets=np.zeros(0, np.int64)
    )
    found = evaluate(Vectors(), none)
    assert found.summary() == []
    assert found.per_user.height == 0


def test_a_module_is_put_into_evaluation_mode_and_back(task: EvalTask) -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.modes: list[bool] = []

        def score_items(self, histories: HistoryBatch) -> Tensor:
            self.modes.append(self.training)
            return torch.zeros(len(histories), ITEMS)

    module = Module()
    evaluate(module, task, metrics=["hr"])
    assert module.modes == [False]
    assert module.training


@pytest.mark.parametrize("wrong", ["", "12 parsecs", "-3MB", "0"])
def test_memory_is_an_amount(wrong: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        parse_memory(wrong)


def test_memory_units() -> None:
    assert [parse_memory(m) for m in ("256MiB", "2 GB", "1.5kib", 77)] == [2**28, 2 * 10**9, 1536, 77]


def test_errors_name_the_cause(task: EvalTask) -> None:
    with pytest.raises(UsageError, match="cannot recommend"):
        evaluate(object(), task)
    for model in (Vectors(), Scores(Vectors())):
        fewer = replace(task, history=replace(task.history, items=_vocabulary(f"i{i}" for i in range(299))))
        with pytest.raises(UsageError, match="other items"):
            evaluate(model, fewer)
    with pytest.raises(UsageError, match="nothing to measure"):
        evaluate(Vectors(), task, metrics=[])

    class Broken:
        name, definition, higher_is_better = "broken", "nothing", True

        def per_user(self, lists: Any, k: int) -> Any:
            return np.zeros(3)

    with pytest.raises(UsageError, match="'broken' broke its contract"):
        evaluate(Vectors(), task, metrics=[Broken()])


def test_weights_that_training_led_astray_are_told_from_a_broken_model(task: EvalTask) -> None:
    class Learned(torch.nn.Module):
        """Represents, by a weight and a number that is none."""

        def __init__(self, scale: float, table: float) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(scale))
            self.table = table

        def user_vectors(self, histories: HistoryBatch) -> Tensor:
            return torch.ones(len(histories), 2)

        def item_vectors(self) -> Tensor:
            return torch.full((ITEMS, 2), self.table) * self.scale.detach()

        def item_bias(self) -> None:
            return None

    with pytest.raises(RecengineError, match=r"item_vectors: training diverged") as diverged:
        evaluate(Learned(float("inf"), 1.0), task)
    assert not isinstance(diverged.value, PluginError)
    assert "training.learning_rate" in str(diverged.value)
    with pytest.raises(PluginError, match="gives no ranking"):
        evaluate(Learned(1.0, float("nan")), task)


def test_a_step_size_that_is_far_too_large_is_named() -> None:
    training = {"epochs": 3, "learning_rate": 1e38, "batch_size": 10_000}
    with pytest.raises(RecengineError, match="training diverged") as diverged:
        fit("mf", planted().split, settings={"training": training, "loss.name": "bpr"})
    assert "training.learning_rate" in str(diverged.value)


def test_standard_metrics_come_through_the_hook() -> None:
    from recengine.evaluation import built_in_metrics
    from recengine.hooks import Host
    from recengine_plugins import metrics

    host = Host()
    host.add(metrics, "metrics")
    registered = {entry.name: entry.load()().definition for entry in host.registries["metric"]}
    assert registered == {name: metric.definition for name, metric in built_in_metrics().items()}
