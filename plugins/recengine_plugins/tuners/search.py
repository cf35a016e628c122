"""Random search and Sobol sequences over a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from scipy.stats import qmc

from recengine.contracts.tuner import Observation
from recengine.tuning import Space, walk
from recengine_plugins.tuners.config import SearchConfig


class RandomSearch:
    """Uniform draws in the unit cube (logarithmic where the parameter is), independent of what is known; from
    a walk within the limits where they bar nearly all of it."""

    def __init__(self, config: SearchConfig, space: Space, seed: int) -> None:
        self.config, self.space, self.seed = config, space, seed

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        generator = np.random.default_rng([self.seed, len(history), len(pending)])
        found: list[dict[str, Any]] = []
        for _ in range(self.config.most_draws):
            point = self.space.decode(generator.random(self.space.width))
            if self.space.allows(point):
                found.append(point)
                if len(found) == n:
                    return found
        return [*found, *islice(walk(self.space, generator), n - len(found))]


class SobolSearch:
    """The next points of a scrambled Sobol sequence that meet the limits; of a walk within them when its
    first ``most_draws`` are used up."""

    def __init__(self, config: SearchConfig, space: Space, seed: int) -> None:
        self.config, self.space, self.seed = config, space, seed

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        wanted = len(history) + len(pending) + n
        sequence = qmc.Sobol(self.space.width, scramble=True, seed=np.random.default_rng(self.seed))
        found: list[dict[str, Any]] = []
        for _ in range(self.config.most_draws):
            point = self.space.decode(sequence.random(1)[0])
            if self.space.allows(point):
                found.append(point)
                if len(found) == wanted:
                    return found[-n:]
        found += islice(walk(self.space, np.random.default_rng(self.seed)), wanted - len(found))
        return found[-n:]
