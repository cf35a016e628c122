"""Open Bandit, small edition: impressions with the chance with which they were shown."""

from __future__ import annotations

import gzip
from pathlib import Path

from recengine.data.clicks import ClickDataConfig, ClickLog, FeatureSpec
from recengine_plugins.click_datasets.place import locate

FEATURES = {
    **{f"user_feature_{i}": FeatureSpec(group="user") for i in range(4)},
    "item_id": FeatureSpec(group="item"),
    **{f"item_feature_{i}": FeatureSpec(group="item") for i in range(1, 4)},
    "item_feature_0": FeatureSpec(kind="numeric", group="item"),
    "affinity": FeatureSpec(kind="numeric", group="user"),
    "position": FeatureSpec(),
}


class OpenBandit:
    """10,000 impressions of a campaign under one policy; the affinity is that of the user for the item that
    was shown. Divided by time. Source: Saito et al., NeurIPS 2021 data sets and benchmarks."""

    licence = "package Apache-2.0; data CC BY 4.0 as far as known: check the publisher's page"

    def __init__(self, policy: str, campaign: str = "all") -> None:
        self.policy, self.campaign = policy, campaign
        self.name = f"open-bandit-{policy}"
        self.summary = f"fashion impressions under the policy '{policy}', with propensities"

    def load(self, cache: Path) -> ClickLog:
        """Read it; raises DataError where it is not on this machine."""
        import polars as pl

        folder, stem = locate("ctr_obd", cache), f"{self.policy}_{self.campaign}"
        with gzip.open(folder / f"{stem}.csv.gz") as file:
            shown = pl.read_csv(file.read())
        items = pl.read_csv(folder / f"{stem}_item_context.csv").drop("")
        columns = [name for name in shown.columns if name.startswith("user-item_affinity_")]
        affinity = shown.select(columns).to_numpy()
        frame = (
            shown.drop("", *columns)
            .with_columns(
                affinity=pl.Series(affinity[range(len(shown)), shown["item_id"].to_numpy()]),
                timestamp=pl.col("timestamp").str.slice(0, 19),
            )
            .join(items, on="item_id", how="left", maintain_order="left")
        )
        about = ClickDataConfig(
            label="click",
            time="timestamp",
            propensity="propensity_score",
            action="item_id",
            features=FEATURES,
            slices=("position",),
        )
        return ClickLog.from_frame(frame, about, name=f"{self.name}, {self.campaign}")


RANDOM = OpenBandit("random")
BTS = OpenBandit("bts")
