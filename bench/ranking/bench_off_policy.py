"""What a policy would have earned, estimated from the log of another one: Open Bandit small, two policies.

    python bench/ranking/bench_off_policy.py [--draws 10000] [--quick]

Two logs of the campaign 'all', 10,000 impressions each, one under a policy that shows every item equally
often (random), one under Thompson sampling (bts). From each log the click rate of both policies is estimated,
plain, by IPS and by SNIPS (recengine.evaluation.off_policy), with percentile bootstrap intervals over rows,
95 %. The rate that the policy earned in its own log stands beside. bts gives no chances for what it did not
show; asked about in the other log, it is taken to show an item at a position as often as it did in its own
log. Written to bench/results/ranking_off_policy.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bench_quality as quality
import numpy as np
from numpy.typing import NDArray

RESULT = quality.RESULTS / "ranking_off_policy.json"
LOGS = ("random", "bts")
ESTIMATES = ("plain", "ips", "snips", "gain")  # gain: SNIPS less plain, the other policy less the log's own
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """clicks: float [n]. chances: of the item that was shown. shown: int [n], the pair of item and position.
    items: how many there are."""

    clicks: Values
    chances: Values
    shown: NDArray[np.int64]
    items: int


def main() -> None:
    """Estimate, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=10_000, help="of the bootstrap")
    parser.add_argument("--quick", action="store_true", help="200 draws, no results file")
    given = parser.parse_args()
    draws = 200 if given.quick else given.draws
    logs = {name: read(name) for name in LOGS}
    rows = []
    for name, log in logs.items():
        for asked in LOGS:
            wanted = log.chances if asked == name else chances_of(asked, logs, log)
            own = float(logs[asked].clicks.mean())
            rows.append({"log": name, "policy": asked, "own": own, **estimated(log, wanted, draws)})
    told = {
        "data": "Open Bandit small, campaign all",
        "rows": {name: int(log.clicks.size) for name, log in logs.items()},
        "clicks": {name: int(log.clicks.sum()) for name, log in logs.items()},
        "draws": draws,
        "estimates": rows,
        "processor": quality.processor(),
        "python": sys.version.split()[0],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    lines = table(told)
    if not given.quick:
        RESULT.write_text(json.dumps(told, indent=1) + "\n")
        RESULT.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def read(policy: str) -> Log:
    """The whole log, not divided."""
    from recengine_plugins.click_datasets.bandit import OpenBandit

    frame = OpenBandit(policy).load(Path(os.environ["RECENGINE_DATA"])).frames[0]
    item, position = frame["item_id"].to_numpy(), frame["position"].to_numpy()
    places = np.unique(position, return_inverse=True)[1]
    items = int(item.max()) + 1
    return Log(
        frame["click"].to_numpy().astype(np.float64),
        frame["propensity_score"].to_numpy(),
        places * items + item,
        items,
    )


def chances_of(policy: str, logs: dict[str, Log], log: Log) -> Values:
    """Chance with which ``policy`` would have shown what ``log`` shows."""
    if policy == "random":
        return np.full(log.clicks.size, 1.0 / log.items)
    return shares(logs[policy], log)


def shares(seen: Log, log: Log) -> Values:
    """How often ``seen`` shows each item of ``log`` at its position, among all that it shows there."""
    pairs = np.bincount(seen.shown, minlength=int(max(seen.shown.max(), log.shown.max())) + 1)
    at = np.bincount(np.arange(pairs.size) // seen.items, weights=pairs)
    found: Values = pairs[log.shown] / at[log.shown // seen.items]
    return found


def estimated(log: Log, wanted: Values, draws: int) -> dict[str, Any]:
    """The estimates, their bootstrap intervals, and how many rows the weights are worth."""
    from recengine.evaluation.off_policy import policy_value

    told = policy_value(log.clicks, log.chances, wanted)
    ends = bootstrap(log.clicks, wanted / log.chances, draws)
    values = {name: value[0] for name, value in asdict(told).items() if name in ESTIMATES}
    values["gain"] = values["snips"] - values["plain"]
    return {"effective": told.effective, **{name: [values[name], *ends[name]] for name in ESTIMATES}}


def bootstrap(clicks: Values, weights: Values, draws: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Percentile intervals, 95 %, of rows drawn with replacement."""
    random = np.random.default_rng(seed)
    n, weighted = clicks.size, weights * clicks
    found = np.empty((draws, len(ESTIMATES)))
    for draw in range(draws):
        often = np.bincount(random.integers(0, n, n), minlength=n)
        earned = often @ weighted
        plain, snips = (often @ clicks) / n, earned / max(often @ weights, np.finfo(float).tiny)
        found[draw] = plain, earned / n, snips, snips - plain
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return {name: (float(low[at]), float(high[at])) for at, name in enumerate(ESTIMATES)}


def table(told: dict[str, Any]) -> list[str]:
    """The results in words."""
    clicks, rows = told["clicks"], told["rows"]
    lines = [
        "# Off-policy estimates on Open Bandit small",
        "",
        "Click rates in clicks a thousand impressions, 95 % percentile bootstrap over rows "
        f"({told['draws']:,} draws); campaign all.",
        f"{told['processor']}, Python {told['python']}, {told['date']}. "
        "`python bench/ranking/bench_off_policy.py`",
        "",
        f"The logs hold {clicks['random']} and {clicks['bts']} clicks in all (random, bts; "
        f"{rows['random']:,} impressions each): the intervals are wide, and one click more or less moves "
        "the plain rate by 0.1.",
        "",
        "| log | policy asked about | worth rows | plain | IPS | SNIPS | SNIPS less plain | in its own log |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in told["estimates"]:
        shown = [f"{1e3 * v:.2f} ({1e3 * a:.2f} to {1e3 * b:.2f})" for v, a, b in (one[n] for n in ESTIMATES)]
        lines.append(
            f"| {one['log']} | {one['policy']} | {one['effective']:,.0f} | {' | '.join(shown)} "
            f"| {1e3 * one['own']:.2f} |"
        )
    return [
        *lines,
        "",
        "plain is the rate of the log itself, whatever policy is asked about. Of the log's own policy all",
        "weights are 1, and the three are one number. In its own log: the rate that the policy asked about",
        "earned there, what the estimates are to meet. bts shown by the random log is taken to show an item",
        "at a position as often as in its own log, whoever the user is.",
    ]


if __name__ == "__main__":
    main()
