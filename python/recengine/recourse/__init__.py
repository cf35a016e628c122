"""The engine's side of recourse: constraint files, tables, and the classifiers that methods work on."""

from recengine.recourse.classifiers import fit_net, from_sklearn, from_torch, linear_classifier
from recengine.recourse.columns import Change, Columns, read_table
from recengine.recourse.constraints import Constraints, compile_constraints, read_constraints
from recengine.recourse.representations import Affine, Layer, Layers, Traced

__all__ = [
    "Affine",
    "Change",
    "Columns",
    "Constraints",
    "Layer",
    "Layers",
    "Traced",
    "compile_constraints",
    "fit_net",
    "from_sklearn",
    "from_torch",
    "linear_classifier",
    "read_constraints",
    "read_table",
]
