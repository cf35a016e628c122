"""A report with made-up numbers: three models, every section filled."""

from __future__ import annotations

import numpy as np

from recengine.reports.content import (
    AuditEntry,
    Bars,
    Curve,
    DataFacts,
    Difference,
    Estimate,
    Example,
    Recommended,
    Report,
    Slices,
    System,
)


def estimate(mean: float, half: float, n: int = 2301) -> Estimate:
    return Estimate(mean, mean - half, mean + half, n)


def sample_report() -> Report:
    rng = np.random.default_rng(7)
    lines = {
        "popularity": ("counts purchases", 0.2588, 0.0381, 0.0612),
        "ease": ("item-item weights in closed form", 0.3312, 0.0553, 0.0871),
        "sasrec": ("self-attention over the purchase sequence", 0.2874, 0.0466, 0.0735),
    }
    epochs = tuple(float(e) for e in range(1, 21))
    loss = tuple(float(6.2 * np.exp(-e / 9) + 1.4 + rng.normal(0, 0.02)) for e in epochs)
    quality = tuple(float(0.047 * (1 - np.exp(-e / 4)) - 0.0003 * max(0, e - 13)) for e in epochs)
    curves = {
        "popularity": (),
        "ease": (
            Curve(
                "L2 penalty tried on the validation data", "L2 penalty", "NDCG@10",
                (100.0, 300.0, 1000.0, 3000.0), (0.0501, 0.0522, 0.0537, 0.0529), 1000.0, log_x=True,
            ),
        ),
        "sasrec": (
            Curve("training loss", "epoch", "loss", epochs, loss),
            Curve("NDCG@10 on the validation data", "epoch", "NDCG@10", epochs, quality, 13.0),
        ),
    }  # fmt: skip
    systems = tuple(
        System(
            name,
            summary,
            {
                "hr@10": estimate(hr, 0.019),
                "ndcg@10": estimate(ndcg, 0.0034),
                "recall@20": estimate(recall, 0.0047),
            },
            curves[name],
            {"model.regularization": 1000.0, "seed": 0} if name == "ease" else {"seed": 0},
            {"popularity": 0.02, "ease": 7.4, "sasrec": 71.0}[name],
        )
        for name, (summary, hr, ndcg, recall) in lines.items()
    )
    labels = ("1–5", "6–20", "21–50", "51–100", "101–200", "201+")
    by_length = Slices(
        "By length of the history", "Users grouped by the number of events in their history.",
        "ndcg@10", "events in the history", "users", labels,
        (31, 122, 401, 577, 700, 470),
        {
            "popularity": tuple(estimate(0.02 + 0.004 * i, 0.009 - 0.001 * i) for i in range(6)),
            "ease": tuple(estimate(0.025 + 0.008 * i, 0.01 - 0.001 * i) for i in range(6)),
            "sasrec": (None, *(estimate(0.025 + 0.005 * i, 0.01 - 0.001 * i) for i in range(1, 6))),
        },
    )  # fmt: skip
    deciles = tuple(str(d) for d in range(1, 11))
    by_popularity = Slices(
        "By popularity of the target", "Targets grouped by the popularity of the item in the training data.",
        "recall@10", "popularity decile of the target (1: least popular items)", "targets", deciles,
        tuple(int(300 + 200 * d) for d in range(10)),
        {s: tuple(estimate(0.002 * d * d * w + 0.001, 0.004) for d in range(10)) for s, w in
         (("popularity", 0.6), ("ease", 0.9), ("sasrec", 0.75))},
    )  # fmt: skip
    ranks = np.arange(1, 3888)
    weight = 1 / ranks**0.7
    taken = np.cumsum(weight) / weight.sum()
    at = np.linspace(0, len(ranks) - 1, 101).astype(int)
    weeks = tuple(f"w{w}" for w in range(1, 54))
    data = DataFacts(
        "groceries", 445603, 2469, 3887, 0.0464, ("1 January 2017", "1 January 2018"),
        Bars(labels, (31, 122, 420, 600, 760, 536)),
        (tuple(float((i + 1) / len(ranks)) for i in at), tuple(float(taken[i]) for i in at)),
        171.0,
        Bars(
            weeks, tuple(float(9000 + 6000 * np.exp(-w / 8)) for w in range(53)),
            ("train",) * 45 + ("validation",) * 4 + ("test",) * 4,
        ),
        ("Made-up numbers for a test.",),
    )  # fmt: skip
    titles = [
        "Bananas", "Yoghurt, 6 oz", "Whole milk, 1 gal", "Strawberries", "Hot-house tomatoes",
        "Mild cheddar, 8 oz", "Eggs, large", "Soft white bread <20 oz>", "Ground beef", "Ice cream",
    ]  # fmt: skip
    lists = {
        system.name: tuple(
            Recommended(titles[i], bool(hit))
            for i, hit in zip(rng.permutation(10), rng.random(10) < 0.3, strict=True)
        )
        for system in systems
    }
    return Report(
        title="Which groceries will a household try next?",
        asked=("Made-up numbers: the question, the data and the split are told here.",),
        headline="ndcg@10",
        systems=systems,
        protocol={
            "split": "global time: validation from 2017-11-07, test from 2017-12-05",
            "candidates": "all 3,887 items, seen ones left out",
            "ties": "smaller id first",
        },
        protocol_hash="8f14e45fceea167a",
        data=data,
        audit=(
            AuditEntry(
                "order inside ties", "warn",
                "Rows with equal times are sorted by item id in the file: every step ascends, where chance "
                "would give one half. In file order a sequence model would learn the id order; "
                "ties are shuffled here.",
                (("ascending steps", "1,000 of 1,000"), ("exact test", "p < 1e-300")),
            ),
        ),
        differences=(
            Difference("ease", "sasrec", "ndcg@10", estimate(0.0087, 0.0029)),
            Difference("ease", "popularity", "ndcg@10", estimate(0.0172, 0.0031)),
        ),
        slices=(by_length, by_popularity),
        examples=(Example("household 1228", tuple(titles[:6]), 184, 11, lists),),
        environment={"recengine": "0.1.0", "torch": "2.13.0", "processor": "made up", "threads": "2"},
        caveats=("One training seed a model: the intervals are over users only.",),
        made="21 November 2026",
    )  # fmt: skip
