"""The engine's side of recourse: constraint files, tables, classifiers, questions after the answer."""

from recengine.recourse.classifiers import (
    fit_net,
    from_sklearn,
    from_torch,
    linear_classifier,
    refitted,
)
from recengine.recourse.columns import Change, Columns, read_table
from recengine.recourse.constraints import (
    Constraints,
    compile_constraints,
    constraint_table,
    read_constraints,
)
from recengine.recourse.questions import Conflict, Price, admissible, binding, conflict, diverse
from recengine.recourse.representations import Affine, Layer, Layers, Traced
from recengine.recourse.saving import SavedModel, load_model, save_model

__all__ = [
    "Affine",
    "Change",
    "Columns",
    "Conflict",
    "Constraints",
    "Layer",
    "Layers",
    "Price",
    "SavedModel",
    "Traced",
    "admissible",
    "binding",
    "compile_constraints",
    "conflict",
    "constraint_table",
    "diverse",
    "fit_net",
    "from_sklearn",
    "from_torch",
    "linear_classifier",
    "load_model",
    "read_constraints",
    "read_table",
    "refitted",
    "save_model",
]
