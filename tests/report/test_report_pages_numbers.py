"""Numbers that pages quote from the reference runs are those of their tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from nested_reft.report.statistics.intervals import paired_difference

DOCS = Path(__file__).parents[2] / "docs"


def _percent(values: list[float]) -> tuple[int, ...]:
    return tuple(round(100 * value) for value in values)


def test_the_biases_and_variances_of_the_theory_page() -> None:
    page = (DOCS / "theory.md").read_text(encoding="utf-8")
    section = page[page.index("## At model scale") : page.index("## When a model can be nested")]
    text = " ".join(section.split())
    table = pd.read_csv(DOCS / "reference/laptop/tables/gradients.csv")
    biases = table[["bias_debiased", "bias_low", "bias_high"]].to_numpy().tolist()
    quoted = [tuple(map(int, found)) for found in re.findall(r"(\d+) % \[(\d+), (\d+)\]", text)]
    assert len(quoted) == 6
    assert set(quoted) <= {_percent(row) for row in biases}
    (bounds,) = re.findall(r"`is_sequence` no bias is resolved: it is at most (\d+) % and (\d+) %", text)
    of_sequence = table[(table["correction"] == "is_sequence") & (table["skip"] == table["skip"].max())]
    assert tuple(map(int, bounds)) == _percent(list(of_sequence["bias_high"]))
    (noises,) = re.findall(r"estimates alone is (\d+) % of the norm for the small model and (\d+) % for", text)
    assert tuple(map(int, noises)) == _percent(list(table.drop_duplicates("size")["noise_floor"]))
    ratios = table.groupby("correction")["variance_ratio"].agg(["min", "max"])
    variances = re.findall(r"`(\w+)` (?:has )?(\d\.\d+) to (\d\.\d+)", text)
    assert len(variances) == 4
    for correction, low, high in variances:
        assert (float(low), float(high)) == tuple(ratios.loc[correction].round(2)), correction


def test_the_gain_on_svamp_of_the_language_model() -> None:
    runs = pd.read_csv(DOCS / "reference/smollm2/tables/runs.csv")
    runs = runs[(runs["benchmark"] == "svamp_test") & (runs["metric"] == "sampled") & (runs["skip"] == 0)]
    before = runs[runs["correction"] == "warmed_up"]["value"].item()
    after = runs[runs["correction"] == "base"]["value"].to_numpy()
    gain = paired_difference(after, np.full(len(after), before))
    quoted = f"{100 * gain.estimate:.1f} [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
    assert f"points: {quoted} in" in (DOCS / "smollm2.md").read_text(encoding="utf-8")


def test_the_gains_of_the_language_model_after_twice_as_many_steps() -> None:
    gains = pd.read_csv(DOCS / "reference/smollm2_baseline/tables/gains.csv")
    gains = gains[gains["metric"] == "sampled"].set_index("benchmark")[["gain", "low", "high"]]
    page = " ".join((DOCS / "smollm2.md").read_text(encoding="utf-8").split())
    for benchmark in ("svamp_test", "multiarith"):
        estimate, low, high = (f"{value:+.1f}".replace("-", "−") for value in 100 * gains.loc[benchmark])
        assert f"{estimate} [{low}, {high}] points" in page, benchmark
