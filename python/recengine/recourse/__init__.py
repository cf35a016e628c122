"""The engine's side of recourse: constraint files and the classifiers that methods work on."""

from recengine.recourse.constraints import Constraints, compile_constraints, read_constraints

__all__ = ["Constraints", "compile_constraints", "read_constraints"]
