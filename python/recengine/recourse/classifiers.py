"""Classifiers with a linear last layer, from wherever they come: scikit-learn, torch, or fitted here.

Nothing is unpickled: live objects are read, and what is saved is arrays and JSON (``saving``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.contracts.recourse import Classifier, Representation
from recengine.errors import DataError, UsageError
from recengine.recourse.representations import Affine, Layer, Layers, Traced, last_linear

Array = NDArray[np.float64]


def linear_classifier(
    names: Sequence[str],
    *,
    centre: Array | None = None,
    scale: Array | None = None,
    classes: Sequence[Any] = (0, 1),
    l2: float | None = None,
) -> Classifier:
    """A logistic (or softmax) regression on (x - centre)/scale that the method itself will fit."""
    d = len(names)
    centre = np.zeros(d) if centre is None else centre
    scale = np.ones(d) if scale is None else scale
    return Classifier(Affine.standardising(centre, scale), tuple(classes), tuple(names), None, l2)


def from_sklearn(model: Any, rows: ArrayLike, *, names: Sequence[str] | None = None) -> Classifier:
    """A fitted LogisticRegression or ReLU/tanh/logistic MLPClassifier, alone or last in a Pipeline.

    rows [n, d]: what the pipeline was fitted on. The steps before the classifier must be an affine map of
    numeric columns (StandardScaler, MinMaxScaler, PCA, ...): the map is read off at d + 1 points and
    checked on all rows. Raises UsageError for anything else.
    """
    X = np.asarray(rows, dtype=np.float64)
    steps = [step for _, step in model.steps] if hasattr(model, "steps") else [model]
    steps = [step for step in steps if step is not None and step != "passthrough"]
    *before, last = steps
    scaling = _affine_of(before, X)
    labels = _names(names, getattr(model, "feature_names_in_", None), X.shape[1])
    kind = type(last).__name__
    if kind in ("LogisticRegression", "LogisticRegressionCV"):
        return _from_logistic(last, scaling, labels, len(X))
    if kind == "MLPClassifier":
        return _from_sklearn_net(last, scaling, labels)
    raise UsageError(
        "recourse needs a classifier with a linear last layer",
        found=kind,
        expected="LogisticRegression or MLPClassifier, alone or last in a Pipeline",
    )


def _from_logistic(last: Any, scaling: Affine, names: tuple[str, ...], n: int) -> Classifier:
    penalty, ratio = getattr(last, "penalty", "l2"), getattr(last, "l1_ratio", None)
    if penalty in ("l1", "elasticnet") and ratio not in (0, 0.0):
        raise UsageError(
            "the absolute penalty has no Hessian", found=f"penalty = {penalty!r}", fix="fit with penalty='l2'"
        )
    if last.class_weight is not None:
        raise UsageError(
            "class weights are not part of the loss whose near-optimal models are meant",
            found=f"class_weight = {last.class_weight!r}",
            fix="fit without class_weight and move the threshold",
        )
    strength = getattr(last, "C_", [getattr(last, "C", 1.0)])[0]
    l2 = 0.0 if penalty is None or np.isinf(strength) else 1.0 / (float(strength) * n)
    weights = np.c_[last.coef_, last.intercept_]
    return Classifier(scaling, tuple(last.classes_), names, weights[0] if len(weights) == 1 else weights, l2)


def _from_sklearn_net(last: Any, scaling: Affine, names: tuple[str, ...]) -> Classifier:
    slopes = {"relu": (0.0, 1.0), "identity": None}.get(last.activation)
    smooth = {"tanh": "tanh", "logistic": "sigmoid"}.get(last.activation)
    hidden = [
        Layer(np.asarray(W.T, np.float64), np.asarray(b, np.float64), slopes, smooth)
        for W, b in zip(last.coefs_[:-1], last.intercepts_[:-1], strict=True)
    ]
    weights = np.c_[last.coefs_[-1].T, last.intercepts_[-1]].astype(np.float64)
    layers = Layers((Layer(scaling.B, scaling.c), *hidden))
    return Classifier(layers, tuple(last.classes_), names, weights[0] if len(weights) == 1 else weights)


def _affine_of(steps: Sequence[Any], X: Array) -> Affine:
    """The affine map that the fitted steps are, or UsageError when they are none."""
    d = X.shape[1]
    if not steps:
        return Affine.identity(d)

    def run(rows: Array) -> Array:
        for step in steps:
            rows = step.transform(rows)
            if hasattr(rows, "toarray"):
                rows = rows.toarray()
        return np.asarray(rows, dtype=np.float64)

    centre, spread = X.mean(axis=0), np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
    try:
        at_centre = run(centre[None])[0]
        columns = run(centre + np.diag(spread)) - at_centre
        B = (columns / spread[:, None]).T
        found = Affine(B, at_centre - B @ centre)
        wrong = np.abs(run(X) - found(X)).max(axis=0) > 1e-8 * (1 + np.abs(columns).max())
    except (TypeError, ValueError) as failed:
        raise UsageError(
            "the steps before the classifier do not take a table of numbers",
            found=str(failed),
            fix="encode categories first (recengine.recourse.Columns) and fit the pipeline on that",
        ) from failed
    if wrong.any():
        raise UsageError(
            "the steps before the classifier are no affine map",
            found=" -> ".join(type(step).__name__ for step in steps),
            expected="scalers, PCA or other affine maps",
            fix="make the other features before the pipeline",
        )
    return found


def from_torch(module: Any, rows: ArrayLike, *, names: Sequence[str] | None = None) -> Classifier:
    """Any module [N, d] -> [N, 1], [N] or [N, C] that ends in ``nn.Linear`` (a final sigmoid or softmax does
    no harm).

    A Sequential of linear layers, ReLU, LeakyReLU, Identity, Dropout, Flatten, BatchNorm1d, Tanh and Sigmoid
    is read as a plain net whose affine pieces are exact; any other module is followed by its tangents.
    """
    X = np.asarray(rows, dtype=np.float64)
    last = last_linear(module)
    weights: Array = last.weight.detach().double().cpu().numpy()
    bias: Array = np.zeros(len(weights)) if last.bias is None else last.bias.detach().double().cpu().numpy()
    layers = _plain_layers(module, last)
    phi: Representation = Traced(module, X.shape[1]) if layers is None else Layers(layers)
    width = phi(X[:2]).shape[1]
    if width != weights.shape[1]:
        raise UsageError("the last layer takes other activations", found=width, expected=weights.shape[1])
    full = np.c_[weights, bias]
    classes = tuple(range(max(len(full), 2)))
    return Classifier(phi, classes, _names(names, None, X.shape[1]), full[0] if len(full) == 1 else full)


def _plain_layers(module: Any, last: Any) -> tuple[Layer, ...] | None:
    """The layers before ``last`` of a Sequential of known parts, or None."""
    parts = _opened(module)
    if parts is None or last not in parts:
        return None
    made: list[Layer] = []
    for part in parts[: parts.index(last)]:
        if not _append(made, part):
            return None
    if any(type(part).__name__ not in ("Sigmoid", "Softmax", "Identity", "Flatten", "LogSoftmax")
           for part in parts[parts.index(last) + 1 :]):  # fmt: skip
        raise UsageError("the module does not end in nn.Linear", found=type(parts[-1]).__name__)
    if not made:
        made.append(Layer(np.eye(last.in_features), np.zeros(last.in_features)))
    return tuple(made)


def _append(made: list[Layer], part: Any) -> bool:
    """Add one part to the layers; False when it is not known."""
    from dataclasses import replace

    kind = type(part).__name__
    if kind == "Linear":
        W: Array = part.weight.detach().double().cpu().numpy()
        b: Array = np.zeros(len(W)) if part.bias is None else part.bias.detach().double().cpu().numpy()
        made.append(Layer(W, b))
    elif kind == "BatchNorm1d" and made and made[-1].slopes is None and made[-1].smooth is None:
        scale, shift = _batch_norm(part)
        made[-1] = Layer(scale[:, None] * made[-1].W, scale * made[-1].b + shift)
    elif kind == "BatchNorm1d":
        scale, shift = _batch_norm(part)
        made.append(Layer(np.diag(scale), shift))
    elif kind in ("ReLU", "LeakyReLU", "Tanh", "Sigmoid") and made:
        if made[-1].slopes is not None or made[-1].smooth is not None:
            width = len(made[-1].b)
            made.append(Layer(np.eye(width), np.zeros(width)))
        slope = float(getattr(part, "negative_slope", 0.0))
        kinked = (slope, 1.0) if kind in ("ReLU", "LeakyReLU") else None
        made[-1] = replace(made[-1], slopes=kinked, smooth=None if kinked else kind.lower())
    else:
        return kind in ("Identity", "Dropout", "AlphaDropout") or (kind == "Flatten" and part.start_dim == 1)
    return True


def _batch_norm(part: Any) -> tuple[Array, Array]:
    """Scale and shift of a BatchNorm1d in evaluation mode."""
    variance: Array = part.running_var.double().cpu().numpy()
    mean: Array = part.running_mean.double().cpu().numpy()
    scale = 1 / np.sqrt(variance + part.eps)
    shift = -mean * scale
    if part.affine:
        gain: Array = part.weight.detach().double().cpu().numpy()
        scale, shift = scale * gain, shift * gain + part.bias.detach().double().cpu().numpy()
    return np.asarray(scale), np.asarray(shift)


def _opened(module: Any) -> list[Any] | None:
    """The parts of nested Sequentials in order; None when a container has a forward of its own."""
    from torch import nn

    if isinstance(module, nn.Sequential):
        parts: list[Any] = []
        for part in module:
            inside = _opened(part)
            if inside is None:
                return None
            parts += inside
        return parts
    return [module] if not list(module.children()) else None


def fit_net(
    features: Array,
    labels: NDArray[np.int64],
    names: Sequence[str],
    *,
    centre: Array,
    scale: Array,
    classes: Sequence[Any] = (0, 1),
    hidden: Sequence[int] = (32, 32),
    l2: float = 1e-3,
    epochs: int = 300,
    seed: int = 0,
) -> Classifier:
    """A ReLU net on (x - centre)/scale, trained by Adam on the whole batch with early stopping on a fifth.

    Deterministic under ``seed``. Its last layer is refitted by the method that uses it.
    """
    import torch
    from torch import nn

    X = np.asarray(features, dtype=np.float64)
    if np.unique(labels).size < 2:
        raise DataError("only one class occurs: there is nothing to separate", where="labels")
    generator = torch.Generator().manual_seed(seed)
    widths = [X.shape[1], *hidden]
    scores = 1 if len(classes) == 2 else len(classes)
    layers: list[Any] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside, dtype=torch.float64), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], scores, dtype=torch.float64))
    with torch.no_grad():
        for part in net:
            if isinstance(part, nn.Linear):
                bound = part.in_features**-0.5
                part.weight.uniform_(-bound * 3**0.5, bound * 3**0.5, generator=generator)
                part.bias.zero_()
    z = torch.as_tensor((X - centre) / scale)
    y = torch.as_tensor(labels, dtype=torch.float64 if scores == 1 else torch.int64)
    order = torch.randperm(len(z), generator=generator)
    held, used = order[: len(z) // 5], order[len(z) // 5 :]

    def loss(rows: Any) -> Any:
        out = net(z[rows])
        if scores == 1:
            return nn.functional.binary_cross_entropy_with_logits(out[:, 0], y[rows])
        return nn.functional.cross_entropy(out, y[rows])

    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    best, kept, waited = float("inf"), [p.detach().clone() for p in net.parameters()], 0
    for _ in range(epochs):
        optimiser.zero_grad()
        penalty = sum((p.square().sum() for p in net.parameters() if p.dim() > 1), torch.zeros(()))
        (loss(used) + 0.5 * l2 * penalty).backward()
        optimiser.step()
        with torch.no_grad():
            now = float(loss(held))
        if now < best - 1e-5:
            best, kept, waited = now, [p.detach().clone() for p in net.parameters()], 0
        else:
            waited += 1
            if waited >= 20:
                break
    arrays: list[Array] = [p.numpy() for p in kept]
    weights = np.c_[arrays[-2], arrays[-1]]
    inner = [Layer(arrays[2 * i], arrays[2 * i + 1], (0.0, 1.0)) for i in range(len(hidden))]
    scaling = Affine.standardising(centre, scale)
    phi = Layers((Layer(scaling.B, scaling.c), *inner))
    return Classifier(phi, tuple(classes), tuple(names), weights[0] if scores == 1 else weights, l2)


def refitted(
    fit: Callable[[Array, NDArray[np.int64], int], Classifier],
    rows: Array,
    labels: NDArray[np.int64],
    count: int,
    *,
    seed: int = 0,
) -> list[Classifier]:
    """``count`` classifiers as retraining would give them: fit(rows, labels, seed) on bootstrap rows, each
    from a start of its own.

    rows [n, d]; labels [n]. Draws that miss a class are drawn again. Deterministic under ``seed``.
    """
    generator = np.random.default_rng(seed)
    classes = np.unique(labels).size
    if classes < 2:
        raise DataError("only one class occurs: there is nothing to separate", where="labels")
    made: list[Classifier] = []
    while len(made) < count:
        drawn = generator.integers(len(rows), size=len(rows))
        if np.unique(labels[drawn]).size == classes:
            made.append(fit(rows[drawn], labels[drawn], int(generator.integers(2**31))))
    return made


def _names(given: Sequence[str] | None, found: Any, d: int) -> tuple[str, ...]:
    names = given if given is not None else found if found is not None else [f"x{j}" for j in range(d)]
    if len(names) != d:
        raise UsageError("one name a feature", found=f"{len(names)} names", expected=f"{d}")
    return tuple(str(name) for name in names)
