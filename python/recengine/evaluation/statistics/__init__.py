"""Statistics of repeated runs: is a gain real, how much would it take to know, how reliable is a system.

Scores are matrices [units, runs]: users x training seeds for a recommender, tasks x runs for an agent.
"""

from recengine.evaluation.statistics.bootstrap import CrossedBootstrap, crossed_bootstrap
from recengine.evaluation.statistics.components import VarianceComponents, variance_components
from recengine.evaluation.statistics.crossed import (
    DifferenceTest,
    crossed_test,
    nested_test,
    single_run_test,
    unpaired_crossed_test,
)
from recengine.evaluation.statistics.multiplicity import benjamini_hochberg, holm
from recengine.evaluation.statistics.planning import (
    Plan,
    minimum_detectable_effect,
    plan,
    power_of_crossed_test,
    runs_per_arm,
)
from recengine.evaluation.statistics.reliability import (
    best_at_k,
    grader_noise,
    item_bootstrap,
    pass_at_k,
    pass_hat_k,
    worst_at_k,
)
from recengine.evaluation.statistics.sequential import look_levels, spending_bounds
from recengine.evaluation.statistics.stability import (
    ListStability,
    jaccard,
    list_stability,
    rank_biased_overlap,
)
from recengine.evaluation.statistics.verdict import (
    EquivalenceTest,
    NoiseFloor,
    SignFlip,
    Verdict,
    equivalence_test,
    noise_floor,
    sign_flip,
    verdict,
)

__all__ = [
    "CrossedBootstrap",
    "DifferenceTest",
    "EquivalenceTest",
    "ListStability",
    "NoiseFloor",
    "Plan",
    "SignFlip",
    "VarianceComponents",
    "Verdict",
    "benjamini_hochberg",
    "best_at_k",
    "crossed_bootstrap",
    "crossed_test",
    "equivalence_test",
    "grader_noise",
    "holm",
    "item_bootstrap",
    "jaccard",
    "list_stability",
    "look_levels",
    "minimum_detectable_effect",
    "nested_test",
    "noise_floor",
    "pass_at_k",
    "pass_hat_k",
    "plan",
    "power_of_crossed_test",
    "rank_biased_overlap",
    "runs_per_arm",
    "sign_flip",
    "single_run_test",
    "spending_bounds",
    "unpaired_crossed_test",
    "variance_components",
    "verdict",
    "worst_at_k",
]
