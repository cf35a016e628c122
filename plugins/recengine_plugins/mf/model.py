"""Matrix factorisation under any loss."""

from __future__ import annotations

from recengine.contracts.model import DataFacts
from recengine.nn.pairs import PairModel
from recengine_plugins.mf.config import MFConfig


class MF(PairModel):
    """score(u, i) = <x_u, y_i> (or its cosine, as the loss has it), x and y learned by gradient steps.

    Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", 2009.
    """

    def __init__(self, config: MFConfig, facts: DataFacts) -> None:
        super().__init__(
            facts.n_users,
            facts.n_items,
            config.factors,
            config.init_std,
            config.l2,
            norm_power=config.norm_power,
        )
        self.config = config
