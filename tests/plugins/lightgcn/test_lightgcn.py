from __future__ import annotations

import torch

import recengine
from recengine.testing.worlds import planted


def test_vectors_are_the_mean_of_the_propagated_layers() -> None:
    run = recengine.fit(
        "lightgcn", planted().split, settings={"model.layers": 3, "loss.name": "bpr", "training.epochs": 1}
    )
    model = run.model
    dense = model.graph().dense()
    layers = [model.nodes().detach()]
    for _ in range(3):
        layers.append(dense @ layers[-1])
    wanted = torch.stack(layers).mean(0)[run.split.train.n_users :]
    torch.testing.assert_close(model.item_vectors(), wanted, rtol=1e-4, atol=1e-6)
