"""Variance components of a crossed table: units, runs, and what is left.

Model: Y[i, r] = mu + a_i + b_r + e_ir, all independent. Estimates by the method of moments (two-way
analysis of variance without replication): s_e = MS_e, s_run = (MS_run - MS_e)/U,
s_unit = (MS_unit - MS_e)/R, negative estimates set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recengine.errors import DataError
from recengine.evaluation.statistics.scores import score_matrix


@dataclass(frozen=True)
class VarianceComponents:
    """Mean squares and variances. ``icc`` = s_unit / (s_unit + s_error)."""

    n_units: int
    n_runs: int
    mean: float
    ms_unit: float
    ms_run: float
    ms_error: float
    unit: float
    run: float
    error: float

    @property
    def icc(self) -> float:
        """Share of the variance of one score that belongs to the unit; NaN for a constant table."""
        total = self.unit + self.error
        return self.unit / total if total > 0 else float("nan")

    def variance_of_mean(self, *, units: int, runs: int, target: str = "population") -> float:
        """Variance of the grand mean with that many units and runs.

        population: s_unit/U + s_run/R + s_error/(U R); fixed (the very same units again): without s_unit/U.
        """
        variance = self.run / runs + self.error / (units * runs)
        return variance + (self.unit / units if target == "population" else 0.0)


def variance_components(scores: ArrayLike) -> VarianceComponents:
    """Components of ``scores`` [units, runs]. Raises DataError for fewer than two runs or units."""
    table = score_matrix(scores)
    units, runs = table.shape
    if runs < 2:
        raise DataError(
            "one run carries no information on how runs differ",
            found="1 run",
            expected="at least 2",
            fix="repeat the run with another seed",
        )
    mean = float(table.mean())
    of_unit = table.mean(axis=1) - mean
    of_run = table.mean(axis=0) - mean
    residual = table - mean - of_unit[:, None] - of_run[None, :]
    ms_unit = runs * float(of_unit @ of_unit) / (units - 1)
    ms_run = units * float(of_run @ of_run) / (runs - 1)
    ms_error = float(np.einsum("ij,ij->", residual, residual)) / ((units - 1) * (runs - 1))
    return VarianceComponents(
        units,
        runs,
        mean,
        ms_unit,
        ms_run,
        ms_error,
        unit=max(0.0, (ms_unit - ms_error) / runs),
        run=max(0.0, (ms_run - ms_error) / units),
        error=ms_error,
    )
