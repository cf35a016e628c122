"""Classifiers from scikit-learn and torch are what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recengine.contracts.recourse import Classifier
from recengine.errors import CheckpointError, UsageError
from recengine.recourse import (
    Columns,
    Layers,
    SavedModel,
    Traced,
    fit_net,
    from_sklearn,
    from_torch,
    linear_classifier,
    load_model,
    save_model,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4)) * [1, 10, 100, 1] + [0, 5, -50, 2]
Y = ((X - X.mean(0)) / X.std(0) @ [1.0, -1.0, 0.5, 2.0] + RNG.normal(size=300) > 0).astype(int)


def scores(classifier: object, rows: np.ndarray) -> np.ndarray:
    phi = classifier.representation(rows)
    return np.c_[phi, np.ones(len(phi))] @ np.atleast_2d(classifier.weights).T


def test_a_scikit_learn_pipeline_is_read_off() -> None:
    sklearn = pytest.importorskip("sklearn.pipeline")
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler

    for steps in ([StandardScaler()], [MinMaxScaler(), PCA(3)], []):
        model = sklearn.make_pipeline(*steps, LogisticRegression(C=2.0)).fit(X, Y)
        found = from_sklearn(model, X)
        np.testing.assert_allclose(scores(found, X)[:, 0], model.decision_function(X), rtol=1e-8, atol=1e-8)
        assert found.l2 == pytest.approx(1 / (2.0 * 300))
    bent = sklearn.make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=2000)).fit(X, Y)
    with pytest.raises(UsageError, match="no affine map"):
        from_sklearn(bent, X)
    with pytest.raises(UsageError, match="class_weight"):
        from_sklearn(LogisticRegression(class_weight="balanced", max_iter=2000).fit(X, Y), X)


def test_a_scikit_learn_net_and_a_tree() -> None:
    pytest.importorskip("sklearn")
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    net = MLPClassifier((5,), max_iter=30, random_state=0).fit(X, Y)
    chance = 1 / (1 + np.exp(-scores(from_sklearn(net, X), X)[:, 0]))
    np.testing.assert_allclose(chance, net.predict_proba(X)[:, 1], atol=1e-7)
    with pytest.raises(UsageError, match="linear last layer"):
        from_sklearn(DecisionTreeClassifier().fit(X, Y), X)


def test_a_torch_module_is_the_same_function() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3),
        nn.Sequential(nn.Linear(6, 5), nn.LeakyReLU(0.1)), nn.Linear(5, 3),
    ).eval()  # fmt: skip
    found = from_torch(plain, X)
    assert isinstance(found.representation, Layers)
    with torch.no_grad():
        wanted = plain.double()(torch.as_tensor(X)).numpy()
    np.testing.assert_allclose(scores(found, X), wanted, rtol=1e-9, atol=1e-9)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.last(x + torch.tanh(self.inner(x))))


def test_any_other_module_is_followed_by_tangents() -> None:
    torch.manual_seed(0)
    found = from_torch(Skip(), X)
    assert isinstance(found.representation, Traced)
    x = X[0] / 100
    piece = found.representation.around(x)
    assert not piece.exact
    step = 1e-6 * np.ones(4)
    moved = found.representation((x + step)[None])[0]
    np.testing.assert_allclose(piece.B @ (x + step) + piece.c, moved, atol=1e-10)
    with pytest.raises(UsageError, match=r"nn\.Linear"):
        from_torch(nn.Sequential(nn.ReLU()), X)


def test_a_region_of_a_net_is_affine_and_ends_at_its_edges() -> None:
    classifier = fit_net(X, Y, list("abcd"), centre=X.mean(0), scale=X.std(0), hidden=(7, 5), epochs=40)
    phi = classifier.representation
    piece = phi.around(X[0])
    assert piece.exact
    assert (piece.edges @ X[0] <= piece.limits).all()
    for other in X[0] + 0.3 * RNG.normal(size=(200, 4)) * X.std(0):
        if (piece.edges @ other <= piece.limits).all():
            np.testing.assert_allclose(piece.B @ other + piece.c, phi(other[None])[0], atol=1e-9)
    again = fit_net(X, Y, list("abcd"), centre=X.mean(0), scale=X.std(0), hidden=(7, 5), epochs=40)
    np.testing.assert_array_equal(classifier.weights, again.weights)


def test_saved_models_come_back(tmp_path: Path) -> None:
    net = fit_net(X, Y, list("abcd"), centre=X.mean(0), scale=X.std(0), hidden=(3,), epochs=5)
    linear = linear_classifier(list("abcd"), centre=X.mean(0), scale=X.std(0), classes=("no", "yes"))
    for k, classifier in enumerate((net, linear)):
        folder = tmp_path / str(k)
        save_model(SavedModel(classifier, None, 1, "y", {"theta": np.arange(3.0)}), folder)
        found = load_model(folder)
        assert found.classifier.classes == classifier.classes
        np.testing.assert_array_equal(found.classifier.representation(X), classifier.representation(X))
        assert found.state["theta"].tolist() == [0, 1, 2]
        assert found.columns is None
    assert Columns.from_dict([]) == Columns(())
    with pytest.raises(CheckpointError, match="no saved recourse model"):
        load_model(tmp_path / "nothing")
    (tmp_path / "0" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path / "0")
    with pytest.raises(UsageError, match="plain layers"):
        save_model(SavedModel(from_torch(Skip(), X), None, 1), tmp_path / "2")


def test_refits_are_saved_with_the_model(tmp_path: Path) -> None:
    def fitted(seed: int) -> Classifier:
        return fit_net(X, Y, list("abcd"), centre=X.mean(0), scale=X.std(0), hidden=(3,), epochs=5, seed=seed)

    refits = tuple(fitted(seed) for seed in (1, 2))
    save_model(SavedModel(fitted(0), None, 1, refits=refits), tmp_path / "net")
    found = load_model(tmp_path / "net")
    assert len(found.refits) == 2
    for before, after in zip((fitted(0), *refits), (found.classifier, *found.refits), strict=True):
        np.testing.assert_array_equal(scores(after, X), scores(before, X))
