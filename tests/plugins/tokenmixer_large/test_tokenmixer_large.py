"""TokenMixer-Large: its parameter and FLOP formulas, its depth aids, its export; the forms of a block are in
test_block_forms."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import recengine
from recengine.contracts.batch import FeatureBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.data.clicks import prepare
from recengine.errors import ConfigError
from recengine.hooks import host
from recengine.ops.token_mixing import token_mix, token_revert
from recengine.serving.rankers import export_ranker, load_package, load_program, save_package, save_program
from recengine.testing import planted_clicks
from recengine.training import resolve
from recengine.training.build import build_model
from recengine_plugins.tokenmixer_large import counting
from recengine_plugins.tokenmixer_large.block import block_for
from recengine_plugins.tokenmixer_large.config import (
    PRESETS,
    TokenMixerLargeConfig,
    TokenMixerLargeMoEConfig,
)
from recengine_plugins.tokenmixer_large.feeding import SparseSwiGLU, feed_forward
from recengine_plugins.tokenmixer_large.model import joints
from recengine_plugins.tokenmixer_large.norms import pooled_rms, rms

SPLIT = prepare(planted_clicks(300))
BATCH = FeatureBatch(**SPLIT.train.take(np.arange(40)).tensors())


def make(name: str = "tokenmixer_large", **settings: Any) -> Any:
    config = resolve(name, {"model": settings}, host())
    return build_model(name, config, DataFacts(0, 0, SPLIT.extras()), 0, host())


def normed(x: Tensor, scale: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale


def mix(x: Tensor, heads: int) -> Tensor:
    _b, t, d = x.shape
    return torch.stack(
        [
            torch.cat([x[:, i, h * d // heads : (h + 1) * d // heads] for i in range(t)], 1)
            for h in range(heads)
        ],
        1,
    )


@pytest.mark.parametrize(("tokens", "heads"), [(6, 4), (4, 8), (1, 4), (7, 1)])
def test_revert_undoes_mix_for_any_number_of_heads(tokens: int, heads: int) -> None:
    x = torch.randn(3, tokens, 8)
    mixed = token_mix(x, heads)
    assert mixed.shape == (3, heads, tokens * 8 // heads)
    assert torch.equal(mixed, mix(x, heads))
    assert torch.equal(token_revert(mixed, tokens), x)


def test_gates_sum_to_one_and_every_token_has_its_own_router() -> None:
    from recengine.ops.moe import route

    part = SparseSwiGLU(3, 16, TokenMixerLargeConfig(hidden_dim=16, experts=8, active=4))
    same = torch.randn(50, 1, 16).expand(50, 3, 16)
    routing = route(same, part.router, part.k)
    torch.testing.assert_close(routing.gates.sum(-1), torch.ones(50, 3))
    assert not torch.equal(routing.experts[:, 0], routing.experts[:, 1])
    load = part.load(same)
    assert load.shape == (3, 7)
    assert (load.sum(1) == 50 * 3).all()


def test_one_router_for_all_tokens_takes_the_same_rows_to_the_same_experts() -> None:
    settings = {"hidden_dim": 16, "experts": 8, "active": 4, "router": "shared"}
    part = SparseSwiGLU(3, 16, TokenMixerLargeConfig.parse(settings))
    assert part.router.shape == (1, 16, 7)
    same = torch.randn(50, 1, 16).expand(50, 3, 16)
    routing = part.choose(same)
    torch.testing.assert_close(routing.gates.sum(-1), torch.ones(50, 3))
    for token in (1, 2):
        assert torch.equal(routing.experts[:, 0], routing.experts[:, token])
    assert torch.equal(part.load(same), part.load(same)[:1].expand(3, 7))
    y = part(same)
    assert not torch.equal(y[:, 0], y[:, 1]), "the experts are still a token's own"
    apart = part.choose(torch.randn(50, 3, 16)).experts
    assert not torch.equal(apart[:, 0], apart[:, 1]), "every token chooses for itself"


def test_the_load_of_every_expert_is_told_by_half_block_and_token() -> None:
    model = make("tokenmixer_large_moe", n_blocks=3).eval()
    load = model.expert_load(BATCH.features)
    assert list(load) == [f"blocks.{at}.{half}" for at in range(3) for half in ("mixed", "reverted")]
    for name, counts in load.items():
        part = model.get_submodule(name)
        assert counts.shape == (part.bank.gate.shape[0], 7)
        assert (counts.sum(1) == len(BATCH.labels) * 3).all()
    x = model.blocks[0](model.tokens(model.vectors(BATCH.features)))
    block = model.blocks[1]
    assert torch.equal(
        load["blocks.1.mixed"], block.mixed.load(block.mixing.mix_prenorm(x, block.mixed_norm)[0])
    )
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert make().expert_load(BATCH.features) == {}


def test_the_code_of_the_page_runs() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "models" / "tokenmixer_large.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    torch.testing.assert_close(names["shares"].sum(1), torch.ones(5))


def test_the_gate_scale_is_the_inverse_of_the_share_at_work() -> None:
    assert TokenMixerLargeConfig(experts=4, active=2).alpha == 2
    assert TokenMixerLargeConfig(experts=8, active=2).alpha == 4
    assert TokenMixerLargeConfig(experts=8, active=2, gate_scale=1).alpha == 1


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"norm": "before_mix"},
        {"residual": "reverted"},
        {"experts": 4, "active": 2},
        {"experts": 4, "active": 2, "shared_extra": True, "router": "shared"},
    ],
    ids=str,
)
def test_a_new_block_changes_its_tokens_little(form: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6, 32)
    small = block_for(6, TokenMixerLargeConfig(hidden_dim=32, **form))
    large = block_for(6, TokenMixerLargeConfig(hidden_dim=32, down_gain=1.0, **form))
    with torch.no_grad():
        assert float((small(x) - x).norm() / x.norm()) < 0.05
        assert float((large(x) - x).norm() / x.norm()) > 0.2


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("sparsity", [{}, {"experts": 4, "active": 2}])
def test_the_gain_is_a_factor_on_the_spread_of_the_down_projections_alone(
    gain: float, sparsity: dict[str, Any]
) -> None:
    """Xavier's uniform spread has the variance 2 / (inputs + outputs)."""
    torch.manual_seed(0)
    config = TokenMixerLargeConfig.parse({"hidden_dim": 32, "down_gain": gain, **sparsity})
    bank = feed_forward(6, 32, config).requires_grad_(False).bank
    for weight, factor in ((bank.gate, 1.0), (bank.up, 1.0), (bank.down, gain)):
        deviation = (2 / (weight.shape[-1] + weight.shape[-2])) ** 0.5
        assert float(weight.std()) == pytest.approx(factor * deviation, rel=0.03)
        assert float(weight.abs().max()) <= factor * 3**0.5 * deviation


@pytest.mark.parametrize(
    ("blocks", "skip", "expected"), [(4, 2, (2,)), (5, 2, (2, 4)), (6, 3, (3,)), (2, 2, ()), (4, 0, ())]
)
def test_extra_residuals_never_stand_behind_the_last_block(
    blocks: int, skip: int, expected: tuple[int, ...]
) -> None:
    assert joints(blocks, skip) == expected


def test_the_extra_residual_is_the_output_of_the_block_before() -> None:
    model = make(n_blocks=5, hidden_dim=16, skip=2).eval()
    x0 = model.tokens(model.vectors(BATCH.features))
    b = model.blocks
    x1 = b[0](x0)
    x2 = b[1](x1) + x0
    x3 = b[2](x2)
    x4 = b[3](x3) + x2
    last, between = model.states(model.vectors(BATCH.features))
    torch.testing.assert_close(last, b[4](x4))
    torch.testing.assert_close(between[4], x4)
    assert set(between) == {2, 4}


@torch.no_grad()
def test_averaged_residuals_keep_the_size_of_the_stream() -> None:
    added, averaged = (
        make(n_blocks=16, hidden_dim=16, skip=2, skip_join=join).eval() for join in ("add", "mean")
    )
    vectors = torch.randn(32, added.n_features, added.config.embedding_dim)
    start = float(averaged.tokens(vectors).norm())
    x1 = averaged.blocks[0](averaged.tokens(vectors))
    torch.testing.assert_close(
        averaged.states(vectors)[1][2], 0.5 * (averaged.blocks[1](x1) + averaged.tokens(vectors))
    )
    assert float(averaged.states(vectors)[0].norm()) < 4 * start
    assert float(added.states(vectors)[0].norm()) > 50 * start


def test_the_loss_joins_the_intermediate_logits() -> None:
    model = make(n_blocks=3, hidden_dim=16, auxiliary=0.3).eval()
    last, between = model.states(model.vectors(BATCH.features))

    def bce(tower: Any, x: Tensor) -> Tensor:
        logits = tower(normed(x, model.norm).mean(1)).squeeze(1) + model.bias
        return functional.binary_cross_entropy_with_logits(logits, BATCH.labels)

    expected = bce(model.tower, last) + 0.3 * bce(model.auxiliary["2"], between[2])
    torch.testing.assert_close(model.training_loss(BATCH, StepContext()), expected)
    assert len(make(n_blocks=3, hidden_dim=16, auxiliary=0).auxiliary) == 0


@pytest.mark.parametrize("heads", [0, 2, 8])
@pytest.mark.parametrize("sparsity", [{}, {"experts": 4, "active": 2}, {"experts": 8, "active": 4}])
def test_the_blocks_have_as_many_weights_as_the_formula_says(heads: int, sparsity: dict[str, Any]) -> None:
    model = make(hidden_dim=32, heads=heads, n_blocks=3, expansion=2, **sparsity)
    tokens = model.tokens.tokens
    count = counting.blocks(model.config, tokens)
    assert count.weights == sum(p.numel() for p in model.blocks.parameters())
    h = model.config.heads_for(tokens)
    assert count.experts == 3 * 2 * tokens * 32**2 * (1 + tokens / h) * 3
    share = sparsity.get("active", 1) / sparsity.get("experts", 1)
    assert count.active / count.experts == share
    whole = counting.blocks(model.config.model_copy(update={"experts": 1, "active": 1}), tokens)
    assert count.experts == whole.experts, "sparse has the weights of dense"


@pytest.mark.parametrize(
    ("settings", "experts", "active", "norms"),
    [
        ({"norm": "post"}, 3 * 2 * 5 * 32**2 * (1 + 5 / 4), 1, 32 + 40),
        ({"norm": "before_mix"}, 3 * 2 * 5 * 32**2 * (1 + 5 / 4), 1, 2 * 32),
        ({"mixing": False}, 3 * 2 * 5 * 32**2 * 2, 1, 2 * 32),
        ({"mixing": False, "norm": "before_mix"}, 3 * 2 * 5 * 32**2 * 2, 1, 2 * 32),
        ({"ffn": "shared_swiglu"}, 3 * 2 * (32**2 + 40**2), None, 32 + 40),
        ({"ffn": "ffn"}, 2 * 3 * (5 * 32**2 + 4 * 40**2), 1, 32 + 40),
        ({"ffn": "ffn", "expansion": 1, "hidden_dim": 4}, 2 * 5 * 4 * 6 + 2 * 4 * 5 * 7, 1, 4 + 5),
    ],
    ids=str,
)
def test_every_form_is_counted(
    settings: dict[str, Any], experts: float, active: int | None, norms: int
) -> None:
    """T 5, D 32, H 4, D' 40, n 2, unless it is said."""
    model = make(**{"hidden_dim": 32, "heads": 4, "n_blocks": 3, "expansion": 2, **settings})
    count = counting.blocks(model.config, model.tokens.tokens)
    assert count.weights == sum(p.numel() for p in model.blocks.parameters())
    assert (count.experts, count.norms, count.routers) == (3 * experts, 3 * norms, 0)
    met = 3 * 3 * 2 * (5 * 32**2 + 4 * 40**2) if active is None else active * count.experts
    assert (count.active, count.flops) == (met, 2 * met)


def test_one_router_has_fewer_weights_and_as_much_work() -> None:
    """T 5, D 32, H 4, D' 40, 7 routed experts."""
    sparse = {"hidden_dim": 32, "heads": 4, "n_blocks": 3, "experts": 8, "active": 4}
    own, shared = (make(**sparse, router=router) for router in ("token", "shared"))
    of_own, of_shared = (counting.blocks(model.config, 5) for model in (own, shared))
    assert (of_own.routers, of_shared.routers) == (3 * 2 * 5 * 32 * 7, 3 * (32 + 40) * 7)
    assert of_shared.weights == sum(p.numel() for p in shared.blocks.parameters())
    assert of_shared.flops == of_own.flops == 2 * (of_own.experts // 2 + of_own.routers)


@pytest.mark.parametrize(("experts", "active"), [(8, 4), (8, 1), (4, 4)])
def test_the_shared_expert_on_top_is_counted(experts: int, active: int) -> None:
    """T 5, D 32, H 4, D' 40, n 2."""
    settings = {"experts": experts, "active": active, "shared_extra": True}
    model = make(hidden_dim=32, heads=4, n_blocks=3, expansion=2, **settings)
    count = counting.blocks(model.config, model.tokens.tokens)
    assert count.weights == sum(p.numel() for p in model.blocks.parameters())
    dense = 3 * 2 * 5 * 32**2 * (1 + 5 / 4) * 3
    assert count.experts == dense * (experts + 1) / experts
    assert count.active == dense * (active + 1) / experts
    assert count.routers == 3 * 2 * 5 * 32 * experts


def test_the_work_per_row_falls_with_the_share_of_experts() -> None:
    """Counted by what the operator is given: the routed rows times their weights, and the shared ones."""
    config = TokenMixerLargeConfig(hidden_dim=32, experts=8, active=4)
    part = SparseSwiGLU(5, 32, config)
    x = torch.randn(100, 5, 32)
    inner = part.bank.gate.shape[-1]
    products = int(part.load(x).sum()) * 3 * 32 * inner + 100 * 5 * 3 * 32 * inner
    assert products == 0.5 * 100 * 5 * 3 * 32 * (config.expansion * 32)


def test_presets_have_the_sizes_of_their_names() -> None:
    meant = {
        "10k": 1e4,
        "100k": 1e5,
        "1m": 1e6,
        "10m": 1e7,
        "100m": 1e8,
        "500m": 5e8,
        "1b": 1.2e9,
        "4b": 4.5e9,
    }
    for name, size in PRESETS.items():
        config = TokenMixerLargeConfig.parse({"preset": name})
        weights = counting.blocks(config, size["tokens"]).weights
        assert 0.9 < weights / meant[name] < 1.25, (name, weights)
    assert TokenMixerLargeConfig.parse({"preset": "100k", "n_blocks": 7}).n_blocks == 7
    made = TokenMixerLargeConfig.parse({"preset": "1m"})
    assert TokenMixerLargeConfig.parse(made.model_dump()) == made


def test_the_page_says_which_presets_have_extra_residuals() -> None:
    made = {name: TokenMixerLargeConfig.parse({"preset": name}) for name in PRESETS}
    places = {name: len(joints(one.n_blocks, one.skip)) for name, one in made.items()}
    assert places == {"10k": 0, "100k": 0, "1m": 1, "10m": 0, "100m": 0, "500m": 1, "1b": 0, "4b": 2}
    usual = TokenMixerLargeConfig()
    assert joints(usual.n_blocks, usual.skip) == ()
    page = (Path(__file__).resolve().parents[3] / "docs" / "models" / "tokenmixer_large.md").read_text()
    assert "for the presets `10k`, `100k`, `10m`, `100m` and `1b` (two blocks each)" in page
    assert "`1m` and `500m` have one place, `4b` two" in page


def test_groups_become_tokens() -> None:
    model = make(hidden_dim=16)
    # person (user, seen), item (item, tags), place, price, and the token of everything
    assert model.tokens.tokens == 5
    assert model.tokens.sizes == [32, 32, 16, 16]
    assert make(hidden_dim=16, tokens=3).tokens.sizes == [64, 32]
    assert make(hidden_dim=16, tokens=7).tokens.sizes == [16] * 6
    assert make(hidden_dim=16, global_token=False).tokens.tokens == 4
    with pytest.raises(ConfigError, match="fewer features than tokens") as caught:
        make(hidden_dim=16, tokens=8)
    assert caught.value.found == "6 features for 7 tokens beside that of everything"
    assert caught.value.expected == "model.tokens of at most 7"
    with pytest.raises(ConfigError, match="fewer features than tokens") as caught:
        make(hidden_dim=16, tokens=8, global_token=False)
    assert caught.value.expected == "model.tokens of at most 6"


@pytest.mark.parametrize("preset", ["10m", "100m", "500m", "1b", "4b"])
def test_a_preset_with_more_tokens_than_features_says_what_to_do(preset: str) -> None:
    with pytest.raises(ConfigError, match="fewer features than tokens") as caught:
        make(preset=preset)
    assert "set it to 0" in str(caught.value.fix)
    assert "fewer weights than its name says" in str(caught.value.fix)


@pytest.mark.parametrize(
    "settings",
    [
        {"mixing": False},
        {"residual": "none"},
        {"residual": "reverted"},
        {"skip": 0, "auxiliary": 0.0},
        {"ffn": "shared_swiglu"},
        {"ffn": "ffn"},
        {"norm": "post"},
        {"norm": "before_mix"},
        {"global_token": False},
        {"down_gain": 1.0},
        {"experts": 4, "active": 2, "shared_expert": False},
        {"experts": 8, "active": 4, "gate_scale": 1.0},
        {"experts": 8, "active": 4, "router": "shared"},
        {"experts": 8, "active": 4, "shared_extra": True},
    ],
    ids=str,
)
def test_every_part_can_be_taken_away(settings: dict[str, Any]) -> None:
    model = make(hidden_dim=16, n_blocks=3, **settings).train()
    reached: set[str] = set()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        loss = model.training_loss(BATCH, StepContext())
        loss.backward()
        reached |= {
            n for n, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())
        }
        optimizer.step()
    assert torch.isfinite(loss)
    assert reached == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"preset": ["1m"]}, "'preset' is not valid"),
        ({"heads": 3, "hidden_dim": 16}, "does not divide"),
        ({"experts": 4, "active": 1}, "shared expert"),
        ({"experts": 2, "active": 4}, "more than experts"),
        ({"experts": 4, "active": 2, "ffn": "ffn"}, "parts of a SwiGLU"),
        ({"experts": 5, "active": 2}, "does not divide"),
        ({"router": "shared"}, "no router to share"),
        ({"shared_extra": True}, "shared_extra needs"),
        ({"experts": 4, "active": 2, "shared_extra": True, "shared_expert": False}, "shared_extra needs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TokenMixerLargeConfig.parse(settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenmixer_large", {}),
        ("tokenmixer_large_moe", {}),
        ("tokenmixer_large", {"norm": "before_mix"}),
        ("tokenmixer_large", {"norm": "post"}),
        ("tokenmixer_large_moe", {"router": "shared"}),
        ("tokenmixer_large_moe", {"shared_extra": True}),
        ("rankmixer", {}),
        ("lr", {}),
        ("fm", {}),
        ("deepfm", {}),
        ("dcnv2", {}),
        ("autoint", {}),
        ("dlrm", {}),
        ("wukong", {}),
    ],
    ids=str,
)
def test_an_exported_program_gives_the_scores_of_the_model(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = make(name, **settings).eval()
    path = save_program(export_ranker(model, BATCH), tmp_path / "ranker.pt2")
    program = load_program(path)
    for rows in (1, 5, 40):
        batch = FeatureBatch(**SPLIT.test.take(np.arange(rows) % len(SPLIT.test)).tensors())
        with torch.no_grad():
            got = program(batch.features)
            torch.testing.assert_close(got, model.predict(batch), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_package_of_the_sparse_model_compiled_ahead_gives_its_scores(tmp_path: Path) -> None:
    model = make("tokenmixer_large_moe").eval()
    package = load_package(save_package(export_ranker(model, BATCH), tmp_path / "ranker.pt2"))
    for rows in (1, 5, 40):
        batch = FeatureBatch(**SPLIT.test.take(np.arange(rows) % len(SPLIT.test)).tensors())
        with torch.no_grad():
            torch.testing.assert_close(package(batch.features), model.predict(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "before_mix"},
        {"experts": 8, "active": 4, "router": "shared"},
        {"experts": 8, "active": 4, "shared_extra": True},
    ],
    ids=str,
)
def test_a_run_of_a_form_comes_back_from_its_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    training = {"epochs": 1, "batch_size": 128, "device": "cpu"}
    chosen = {"model": {"hidden_dim": 16, **settings}, "training": training}
    made: Any = recengine.fit("tokenmixer_large", SPLIT, settings=chosen, directory=tmp_path / "run")
    again: Any = recengine.load(tmp_path / "run")
    for name, value in settings.items():
        assert getattr(again.model.config, name) == value
    kept = again.model.state_dict()
    assert kept.keys() == made.model.state_dict().keys()
    assert all(torch.equal(value, kept[name]) for name, value in made.model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again.model.eval().predict(BATCH), made.model.eval().predict(BATCH))


def test_the_shared_expert_on_top_is_as_wide_as_one_and_leaves_the_routed_ones_alone() -> None:
    sparse = {"hidden_dim": 16, "experts": 4, "active": 2}
    inside, extra = (
        SparseSwiGLU(3, 16, TokenMixerLargeConfig.parse({**sparse, "shared_extra": on}))
        for on in (False, True)
    )
    assert inside.bank.gate.shape == (3, 3, 16, 8)
    assert extra.bank.gate.shape == (3, 4, 16, 8)
    assert inside.always is not None
    assert extra.always is not None
    assert inside.always.gate.shape == extra.always.gate.shape == (3, 16, 8)
    assert (inside.k, extra.k) == (1, 2)
    assert inside.alpha == extra.alpha == 2
    assert int(extra.load(torch.randn(50, 3, 16)).sum()) == 50 * 3 * 2
    assert TokenMixerLargeConfig.parse({**sparse, "active": 1, "shared_extra": True}).chosen == 1


def test_one_routed_expert_leaves_its_router_without_a_gradient() -> None:
    """The softmax over a single chosen logit is 1: why the registered sparse form has four at work."""
    part = SparseSwiGLU(3, 16, TokenMixerLargeConfig(hidden_dim=16, experts=4, active=2, down_gain=1.0))
    part(torch.randn(20, 3, 16)).square().sum().backward()
    assert part.router.grad is None or not bool(part.router.grad.any())


def test_experts_that_do_not_divide_a_mixed_token_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not divide the inner width"):
        make(hidden_dim=32, heads=16, experts=8, active=4)


@pytest.mark.parametrize("tokens", [5, 6, 8, 11, 16])
def test_the_heads_that_are_chosen_leave_experts_whole(tokens: int) -> None:
    """The whole search space of the sparse form can be built, whatever number of groups the data has."""
    for width, expansion, experts in itertools.product((32, 64, 256), (1, 2, 3, 4), (8, 16)):
        sizes = {"hidden_dim": width, "expansion": expansion, "experts": experts}
        heads = TokenMixerLargeMoEConfig.parse(sizes).heads_for(tokens)
        assert tokens * width // heads * expansion % experts == 0
        larger = (h for h in range(heads + 1, tokens + 1) if width % h == 0)
        assert all(tokens * width // h * expansion % experts for h in larger)
    dense = TokenMixerLargeConfig(hidden_dim=32)
    assert dense.heads_for(tokens) == max(h for h in range(1, tokens + 1) if 32 % h == 0)


@pytest.mark.parametrize("settings", [{}, {"experts": 4, "active": 2}], ids=["dense", "sparse"])
def test_what_is_packed_follows_a_fused_optimiser(settings: dict[str, Any]) -> None:
    model = make(hidden_dim=16, n_blocks=2, down_gain=1.0, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        with torch.no_grad():
            found = model.eval()(BATCH.features)
        exact = model(BATCH.features).detach()  # with a gradient asked for: nothing packed
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
        model.train()
        model.training_loss(BATCH, StepContext()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_pooled_norm_is_the_mean_of_normed_tokens(dtype: torch.dtype, close: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 16, generator=generator).to(dtype)
    x[0], x[1, 2] = 0, 0  # the slope of a norm at zero must not be NaN
    x.requires_grad_()
    scale = torch.rand(16, generator=generator).to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    plain, pooled = rms(x, scale).mean(1), pooled_rms(x, scale)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, plain, rtol=close, atol=close)
    change = torch.randn(plain.shape, generator=generator).to(dtype)
    for one, other in zip(
        *(torch.autograd.grad(y, (x, scale), change) for y in (pooled, plain)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=close, atol=close)


def test_pooled_norm_keeps_its_precision_under_autocast() -> None:
    x, scale = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1)), torch.ones(16)
    with torch.autocast("cpu", torch.bfloat16):
        within = pooled_rms(x, scale)
    assert torch.equal(within, pooled_rms(x, scale))
