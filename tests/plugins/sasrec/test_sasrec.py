from __future__ import annotations

import pytest
import torch

from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.model import DataFacts, Represents, Trainable
from recengine.errors import ConfigError
from recengine.hooks import host
from recengine.testing import ModelConformance
from recengine.training import resolve
from recengine.training.build import build_model

ITEMS = 30


class TestConformance(ModelConformance):
    name = "sasrec"


class TestGSASRec(ModelConformance):
    name = "gsasrec"


def test_gsasrec_is_sasrec_with_gbce() -> None:
    config = resolve("gsasrec", {}, host())
    assert config.loss is not None
    assert config.loss.model_dump() == {
        "name": "gbce",
        "negatives": 256,
        "shared": False,
        "sampler": "uniform",
        "power": 1.0,
        "calibration": 0.75,
        "balanced": True,
    }
    assert type(build_model("gsasrec", config, DataFacts(5, ITEMS), 1, host())) is type(make())


def make(loss: str = "softmax", **settings: object) -> torch.nn.Module:
    given = {"model": {"hidden_dim": 16, "max_length": 6, **settings}, "loss": {"name": loss}}
    config = resolve("sasrec", given, host())
    return build_model("sasrec", config, DataFacts(5, ITEMS), 1, host()).eval()


def histories(*rows: list[int]) -> HistoryBatch:
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()])
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return HistoryBatch(torch.full((len(rows),), -1), items, offsets)


@pytest.mark.parametrize(("given", "std"), [({}, 0.02), ({"init_std": 0.1}, 0.1)])
def test_first_weights_are_narrow_and_cut_at_two_standard_deviations(
    given: dict[str, float], std: float
) -> None:
    tables = [weight for weight in make(**given).parameters() if weight.ndim == 2]
    values = torch.cat([weight.detach().flatten() for weight in tables])
    assert values.abs().max() <= 2 * std
    assert float(values.std()) == pytest.approx(0.88 * std, rel=0.05)  # of a normal cut at two of its own


@pytest.mark.parametrize("positions", ["recent", "first"])
@pytest.mark.parametrize("heads", [1, 2])
def test_a_user_vector_is_the_last_hidden_state(positions: str, heads: int) -> None:
    model = make(positions=positions, n_heads=heads)
    asked = histories([1, 2, 3], [4], [5, 6, 7, 8, 9, 10])
    with torch.inference_mode():
        hidden = model.encoder.states(asked.items, asked.offsets)
        torch.testing.assert_close(model.user_vectors(asked), hidden[asked.offsets[1:] - 1])


def test_only_the_recent_past_counts_and_nothing_but_it() -> None:
    model = make()
    with torch.inference_mode():
        long, short = model.user_vectors(histories([9, 9, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]))
        assert torch.equal(long, short)
        alone = model.user_vectors(histories([3, 1]))[0]
        torch.testing.assert_close(model.user_vectors(histories([7, 8, 9], [3, 1], []))[1], alone)
        assert not torch.allclose(model.user_vectors(histories([1, 3]))[0], alone)
        assert torch.equal(model.user_vectors(histories([], [])), torch.zeros(2, 16))


def test_no_position_sees_its_future() -> None:
    model = make(positions="first")
    offsets = torch.tensor([0, 5])
    with torch.inference_mode():
        one = model.encoder.states(torch.tensor([1, 2, 3, 4, 5]), offsets)
        other = model.encoder.states(torch.tensor([1, 2, 3, 20, 21]), offsets)
    assert torch.equal(one[:3], other[:3])
    assert not torch.allclose(one[3:], other[3:])


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce", "bce", "bpr"])
def test_positions_without_a_target_cost_nothing(loss: str) -> None:
    model = make(loss)
    items, targets = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([2, -1, 4, 5, -1])
    shared = bool(model.feed().shared)
    negatives = None
    if model.feed().negatives:
        negatives = torch.arange(10, 14) if shared else torch.arange(10, 30).view(5, 4)
    batch = SequenceBatch(torch.tensor([0, 1]), items, targets, torch.tensor([0, 3, 5]), negatives=negatives)
    total = model.training_loss(batch, StepContext())
    kept = targets >= 0
    hidden = model.encoder.states(items, batch.offsets)[kept]
    rows = negatives if negatives is None or shared else negatives[kept]
    from recengine.contracts.loss import LossInput

    wanted = model.loss(LossInput(hidden, model.item_vectors(), targets[kept], rows), StepContext())
    torch.testing.assert_close(total, wanted)


def test_contracts_and_settings() -> None:
    model = make("sampled_softmax")
    assert isinstance(model, Represents)
    assert isinstance(model, Trainable)
    feed = model.feed()
    assert (feed.kind, feed.max_length, feed.negatives, feed.shared) == ("sequences", 6, 256, True)
    with pytest.raises(ConfigError, match="does not divide"):
        make(n_heads=3)
