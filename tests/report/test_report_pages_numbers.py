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


def _range(values: pd.Series, places: int) -> str:
    return f"{values.min():.{places}f} to {values.max():.{places}f}"


def test_the_words_of_the_readme() -> None:
    """What it says of the laptop models, below the claims, and of the worth of SmolLM2's rollouts."""
    page = " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split()).replace("−", "-")
    tables = DOCS / "reference/laptop/tables"
    speed = {name: pd.read_csv(tables / f"{name}.csv").query("skip > 0") for name in ("throughput", "step_speed")}
    assert f"write {_range(speed['throughput']['speedup'], 2)} times as many tokens" in page
    assert f"is only {_range(speed['step_speed']['speedup'], 2)} times as fast" in page

    cells = pd.read_csv(tables / "cells.csv")
    parity = {name: cells[cells["id"] == f"C5-{name}"] for name in ("base", "unit", "retrace")}
    lost = {name: _range(-100 * rows["estimate"], 1) for name, rows in parity.items()}
    passed = {name: (rows["verdict"] == "passes").sum() for name, rows in parity.items()}
    furthest = 100 * parity["retrace"]["estimate"].abs().max()
    assert f"within {furthest:.1f} points of the baseline's at every skip" in page
    assert f"`base` loses {lost['base']} points and is on par in five of six cases" in page
    assert f"`unit` loses {lost['unit']}, the more" in page
    assert passed == {"base": 5, "unit": 4, "retrace": 6}
    assert set(parity["unit"][parity["unit"]["verdict"] == "passes"]["skip"]) == {12, 25}

    gains = pd.read_csv(tables / "gains.csv").query("skip == 0")
    assert (gains[gains["metric"] == "sampled"]["low"] > 0).all()  # on every benchmark
    means = 100 * gains.groupby(["metric", "size"])["gain"].mean()
    assert f"rises by {means['sampled', 'small']:.1f} points over the pre-trained model (small) and" in page
    assert f"(small) and {means['sampled', 'large']:.1f} (large)" in page
    assert f"changes by {means['greedy', 'small']:.1f} and {means['greedy', 'large']:.1f} in the mean" in page
    (steps,) = gains.query("metric == 'greedy' and size == 'large' and benchmark == 'steps'").itertuples()
    quoted = f"{-100 * steps.gain:.1f} points [{-100 * steps.high:.1f}, {-100 * steps.low:.1f}]"
    assert f"the large model loses {quoted}" in page

    layers = (DOCS / "reference/smollm2/tables/layer_choice.md").read_text(encoding="utf-8")
    (worth,) = re.findall(r"uniform, skip 10 % .* (\S+ \[\S+ \S+\]) +\|\n", layers)
    assert f"is {worth} of the baseline's" in page


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
