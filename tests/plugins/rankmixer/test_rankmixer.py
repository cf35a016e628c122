"""RankMixer against its formula."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from recengine.contracts.batch import FeatureBatch
from recengine.contracts.model import DataFacts
from recengine.data.clicks import prepare
from recengine.errors import ConfigError
from recengine.hooks import host
from recengine.testing import planted_clicks
from recengine.training import resolve
from recengine.training.build import build_model
from recengine_plugins.rankmixer.model import MixerBlock

SPLIT = prepare(planted_clicks(200))
BATCH = FeatureBatch(**SPLIT.train.take(np.arange(9)).tensors())


def test_blocks_and_tokens_by_hand() -> None:
    config = resolve("rankmixer", {"model": {"tokens": 4, "hidden_dim": 8, "embedding_dim": 3}}, host())
    model = build_model("rankmixer", config, DataFacts(0, 0, SPLIT.extras()), 0, host()).eval()
    vectors = model.vectors(BATCH.features)
    flat = functional.pad(vectors.flatten(1), (0, 2))  # 6 features of 3: 18 values, 4 pieces of 5
    x = torch.stack(
        [flat[:, 5 * t : 5 * t + 5] @ model.tokens.weight[t] + model.tokens.bias[t] for t in range(4)], 1
    )
    torch.testing.assert_close(model.tokens(vectors), x)
    for block in model.blocks:
        mixed = torch.stack([x[:, :, 2 * h : 2 * h + 2].flatten(1) for h in range(4)], 1)
        s = block.mixed(mixed + x)
        fed = [
            functional.gelu(s[:, t] @ block.up[t] + block.up_bias[t]) @ block.down[t] + block.down_bias[t]
            for t in range(4)
        ]
        x = block.out(torch.stack(fed, 1) + s)
    expected = model.bias + model.out(x.mean(1)).squeeze(1)
    torch.testing.assert_close(model(BATCH.features), expected, rtol=1e-4, atol=1e-5)


def test_a_block_and_its_gradients_agree_with_float64_einsums() -> None:
    torch.manual_seed(0)
    block = MixerBlock(4, 8, 2)
    exact = copy.deepcopy(block).double()
    x = torch.randn(37, 4, 8, requires_grad=True)
    x64 = x.detach().double().requires_grad_()

    def norm(s: torch.Tensor, part: torch.nn.LayerNorm) -> torch.Tensor:
        centred = s - s.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * part.weight + part.bias

    mixed = torch.einsum("bthj->bhtj", x64.view(37, 4, 4, 2)).reshape(37, 4, 8)
    s = norm(mixed + x64, exact.mixed)
    hidden = functional.gelu(torch.einsum("btd,tdf->btf", s, exact.up) + exact.up_bias[:, 0])
    fed = torch.einsum("btf,tfd->btd", hidden, exact.down) + exact.down_bias[:, 0]
    truth, ours = norm(fed + s, exact.out), block(x)
    upstream = torch.randn(37, 4, 8)
    found = (ours.detach(), *torch.autograd.grad(ours, (x, *block.parameters()), upstream))
    wanted = (truth.detach(), *torch.autograd.grad(truth, (x64, *exact.parameters()), upstream.double()))
    for one, two in zip(found, wanted, strict=True):
        assert float((one.double() - two).abs().max()) <= 2e-5 * float(two.abs().max())


def test_the_body_has_the_published_number_of_weights() -> None:
    """2 k T D^2 a block and the biases of its two layers; RankMixer counts 2 k L T D^2."""
    config = resolve("rankmixer", {"model": {"tokens": 8, "hidden_dim": 32, "n_blocks": 3}}, host())
    model = build_model("rankmixer", config, DataFacts(0, 0, SPLIT.extras()), 0, host())
    banks = sum(block.up.numel() + block.down.numel() for block in model.blocks)
    assert banks == 2 * 2 * 3 * 8 * 32**2


def test_tokens_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        resolve("rankmixer", {"model": {"tokens": 5, "hidden_dim": 64}}, host())
