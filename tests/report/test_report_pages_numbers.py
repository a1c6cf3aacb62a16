"""Numbers that pages quote from the reference runs are those of their tables."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

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
