"""The README is short, its lines that use the library run as they are, and its numbers are those of the kept runs.

So are those of the pages of results: each number with a decimal point is in a fact that is computed here.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nested_reft.config.experiment import load_config
from nested_reft.planning.costs import model_shape
from nested_reft.report.claims.summary import MARKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    name: (ROOT / path).read_text(encoding="utf-8")
    for name, path in {
        "README": "README.md",
        "results": "docs/results.md",
        "losing_layers": "docs/losing_layers.md",
        "learning": "docs/learning.md",
        "gradients": "docs/gradients.md",
        "cheaper": "docs/cheaper.md",
    }.items()
}
README = PAGES["README"]
Row = dict[str, str]


def rows(run: str, table: str, **where: object) -> list[Row]:
    """The rows of a kept tidy table with these values."""
    with (ROOT / f"docs/reference/{run}/tables/{table}.csv").open(encoding="utf-8") as file:
        found = csv.DictReader(file)
        return [row for row in found if all(row[key] == str(value) for key, value in where.items())]


def page_rows(run: str, table: str, **where: str) -> list[Row]:
    """The same of a table for people."""
    lines = (ROOT / f"docs/reference/{run}/tables/{table}.md").read_text(encoding="utf-8").splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    found = [dict(zip(split[0], line, strict=True)) for line in split[2:]]
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def numbers(found: list[Row], column: str = "estimate") -> list[float]:
    return [float(row[column]) for row in found if row[column]]


def interval(row: Row, show: Callable[[float], str], estimate: str = "estimate") -> str:
    return f"{show(float(row[estimate]))} [{show(float(row['low']))}, {show(float(row['high']))}]"


def ratio(value: float) -> str:
    return f"{value:.2f}"


def points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def unsigned(value: float) -> str:
    return f"{abs(100 * value):.1f}"


def share(value: float) -> str:
    return f"{100 * value:.0f}"


def spread(found: list[float], show: Callable[[float], str]) -> str:
    return f"{show(min(found))} to {show(max(found))}"


def cells(claim: str, run: str = "laptop", **where: object) -> list[Row]:
    return rows(run, "cells", id=claim, **where)


def gain(run: str = "laptop", **where: object) -> Row:
    (row,) = rows(run, "gains", skip=0, **where)
    return row


def ess(stage: str, strategy: str) -> str:
    """Of 3 of SmolLM2's 30 layers."""
    (row,) = page_rows("smollm2", "nestability", **{"model": stage, "layers from": strategy, "skip %": "10"})
    return row["ESS"].partition(" ")[0]


def nested(size: str, strategy: str, skip: int) -> Row:
    """Of an unmodified model."""
    (row,) = page_rows("nestability", "nestability", size=size, **{"layers from": strategy, "skip %": str(skip)})
    return row


def by_skip(size: str, strategy: str = "uniform") -> str:
    """Effective sample sizes of an unmodified model at each skip, as in a row of the page's table."""
    found = [nested(size, strategy, skip) for skip in (5, 10, 15)]
    return " | ".join(f"{row['left out']} out: {row['ESS']}" if row["left out"] else row["ESS"] for row in found)


def at_skips(size: str, strategy: str) -> str:
    """The same without intervals, as text."""
    return "{}, {} and {}".format(*(nested(size, strategy, skip)["ESS"].partition(" ")[0] for skip in (5, 10, 15)))


def across_sizes(skip: int) -> str:
    """Effective sample sizes of the unmodified models, drawn uniformly."""
    return "{}, {} and {}".format(*(nested(size, "uniform", skip)["ESS"].partition(" ")[0] for size in MODELS))


def single_draws(size: str, skip: int) -> str:
    """The least and the greatest of single batches, drawn uniformly."""
    found = rows("nestability", "nestability_batches", size=size, skip=skip, strategy="uniform", border=1)
    return spread(numbers(found, "ess"), ratio).replace(" to ", " and ")


def by_completion(correction: str) -> str:
    """Of SmolLM2 at 10 %: bias, scale, cosine and variance ratio, as in a row of the page's table."""
    (row,) = (row for row in COMPLETIONS if row["correction"] == correction)
    shows = {"bias": share, "scale": ratio, "cosine": ratio, "variance_ratio": ratio}
    return " | ".join(
        f"{show(float(row[name]))} [{show(float(row[f'{name}_low']))}, {show(float(row[f'{name}_high']))}]"
        if row[f"{name}_low"]
        else "no bound seen"
        for name, show in shows.items()
    )


def worth(run: str, **where: str) -> str:
    (row,) = page_rows(run, "layer_choice", **where)
    return row["rollouts in equal time"]


def passing(found: list[Row]) -> str:
    """Of the cells of a claim."""
    return f"{sum(row['verdict'] == 'passes' for row in found)} of {len(found)}"


def differences(name: str, size: str) -> str:
    """The line of a correction in the table of accuracies: at each skip the range over benchmarks, and what passes."""
    of_skip = [cells(f"C5-{name}", size=size, skip=skip) for skip in (12, 25, 38)]
    entries = [f"{spread(numbers(found), points)}; {passing(found)}" for found in of_skip]
    return f"| `{name}`, {size} | " + " | ".join(entries) + " |"


def learned(size: str) -> float:
    gains = numbers(rows("laptop", "gains", size=size, skip=0, metric="greedy"), "gain")
    return sum(gains) / len(gains)


def parameters(size: str) -> str:
    shape = model_shape(load_config(ROOT / "config/config.yaml"), size, ROOT / "results/none")
    assert shape
    return ratio(shape.parameters / 1e6)


SPEED = {claim: spread(numbers(cells(claim)), ratio) for claim in ("C1", "C2")}
GAINS = {size: numbers(cells("C6", size=size)) for size in ("small", "large")}
SMOLLM2 = {row["benchmark"]: interval(row, points) for row in cells("C6", "smollm2")}
STEPS = gain(size="large", benchmark="steps", metric="greedy")
BEFORE = {name: spread(numbers(cells(f"C3-{name}", skip=38)), share) for name in ("base", "unit", "retrace")}
VARIANCES = {name: spread(numbers(cells(f"C4-{name}")), ratio) for name in ("base", "unit", "retrace")}
ALL_BEFORE = numbers([row for name in ("base", "unit", "retrace") for row in cells(f"C3-{name}", skip=38)])
NOISE = [100 * value for value in numbers(rows("laptop", "gradients"), "noise_floor")]
COSINES = {
    name: min(numbers(rows("laptop", "gradients", correction=name), "cosine")) for name in ("base", "unit", "retrace")
}


def accuracies(correction: str, skip: int) -> list[float]:
    """Of SmolLM2, on each benchmark the mean over seeds."""
    found = [
        rows("smollm2", "runs", correction=correction, skip=skip, benchmark=name, metric="sampled")
        for name in ("svamp_test", "multiarith")
    ]
    return [sum(numbers(of, "value")) / len(of) for of in found]


CHANGES = [f"{points(learned(size))}" for size in ("small", "large")]
SMOLLM2_KL = [
    page_rows("smollm2", "layer_choice", strategy=name)[0]["KL"] for name in ("uniform, skip 10 %", "uniform")
]
COMPLETIONS = rows("smollm2_gradients", "completion_gradients", skip=10)
HEADLINE = [float(row["bias"]) for row in COMPLETIONS if row["correction"] != "is_sequence"]
CHOICES = [row["difference to uniform"] for row in page_rows("laptop", "layer_choice") if row["difference to uniform"]]

MODELS = {
    "135m": "SmolLM2-135M, 30 layers",
    "0.5b": "Qwen2.5-Coder-0.5B, 24 layers",
    "1.5b": "Qwen2.5-Coder-1.5B, 28 layers",
}
OF_COMPLETIONS = [
    float(row["ESS, completions"].partition(" ")[0])
    for row in page_rows("nestability", "nestability")
    if row["left out"]
]
ON_PAR = f"{passing(cells('C5-retrace'))} cases"
WORTH = " and ".join(f"{worth('laptop', size=size, strategy='uniform')} ({size})" for size in ("small", "large"))

FACTS = {
    "README": [
        f"{SPEED['C1']} times as fast",
        f"{SPEED['C2']} times as fast",
        f"of the baseline's in {ON_PAR}",
        f"with `unit` in {passing(cells('C5-unit'))}, and it falls by up to "
        f"{unsigned(min(numbers(cells('C5-unit'))))} points",
        f"gradients are off by {spread(ALL_BEFORE, share)} %, and on SmolLM2 by {spread(HEADLINE, share)} %",
        f"Two of {parameters('small')} and {parameters('large')} million parameters",
        f"an effective sample size of {across_sizes(5)} of their tokens",
        f"without 15 % of {across_sizes(15)}",
        f"SmolLM2 keeps {ess('warmed-up, layer drop 0.1', 'uniform')}",
        f"({SMOLLM2['svamp_test']} points on SVAMP, {SMOLLM2['multiarith']} on MultiArith)",
        f"changes by {' and '.join(CHANGES)} points",
    ],
    "results": [
        f"is {across_sizes(5)} (SmolLM2-135M, Qwen2.5-Coder-0.5B and -1.5B), without 15 % it is {across_sizes(15)}",
        f"SmolLM2-135M has {ess('warmed-up, layer drop 0.1', 'uniform')}",
        f"in {ON_PAR}",
        "With `unit` in {}, with `base` in {}".format(
            *(passing(cells(f"C5-{name}")).partition(" ")[0] for name in ("unit", "base"))
        ),
        f"they are off by {spread(ALL_BEFORE, share)} %, on SmolLM2 with 3 of 30 by {spread(HEADLINE, share)} %",
        f"Rollouts are {SPEED['C1']} times as fast, whole steps {SPEED['C2']} times",
        "are worth {} and {} times the baseline's on the laptop models, but {} times on SmolLM2 at 10 %".format(
            *(
                text.partition(" ")[0]
                for text in (
                    worth("laptop", size="small", strategy="uniform"),
                    worth("laptop", size="large", strategy="uniform"),
                    worth("smollm2", strategy="uniform, skip 10 %"),
                )
            )
        ),
    ],
    "losing_layers": [
        *(f"| {name} | {by_skip(size)} |" for size, name in MODELS.items()),
        f"batches of Qwen2.5-Coder-0.5B are between {single_draws('0.5b', 10)}",
        f"those of SmolLM2 between {single_draws('135m', 5)}",
        *(
            f"{name} {at_skips(size, strategy)}"
            for strategy in ("least_half", "uniform, border 4")
            for size, name in (("135m", "keeps"), ("0.5b", "Qwen2.5-Coder-0.5B"))
        ),
        f"{spread(OF_COMPLETIONS, ratio)} of them",
        f"is {ess('pre-trained', 'uniform')} of the tokens for the unmodified model, "
        f"{ess('warmed-up, no layer drop', 'uniform')} after a warm-up, and "
        f"{ess('warmed-up, layer drop 0.1', 'uniform')} after",
        f"with a probability of {load_config(ROOT / 'config/smollm2.yaml').warmup.layer_drop}",
        f"to {ess('pre-trained', 'least')}, {ess('warmed-up, no layer drop', 'least')} and "
        f"{ess('warmed-up, layer drop 0.1', 'least')}",
        f"alarm of {load_config(ROOT / 'config/smollm2.yaml').training.alarms.kl_above} nats per token",
        "{} at 10 % and {} at 15 %".format(*(ratio(float(value)) for value in SMOLLM2_KL)),
    ],
    "learning": [
        *(differences(name, size) for name in ("base", "unit", "retrace") for size in ("small", "large")),
        f"differs by more than {max(abs(float(text.partition(' ')[0])) for text in CHOICES):.1f} points",
        *(f"by {spread(GAINS[size], unsigned)} points ({size})" for size in GAINS),
        f"changes by {' and '.join(CHANGES)}, ",
        "loses {} points [{}, {}]".format(*(unsigned(float(STEPS[bound])) for bound in ("gain", "high", "low"))),
        *(
            f"| {name} | {' | '.join(unsigned(value) for value in accuracies(correction, skip))} |"
            for name, correction, skip in (
                ("unmodified", "pretrained", 0),
                ("warmed-up", "warmed_up", 0),
                ("baseline ReFT", "base", 0),
                ("nested, `unit`, skip 10 %", "unit", 10),
                ("nested, `base`, skip 10 %", "base", 10),
                *((f"nested, `retrace`, skip {skip} %", "retrace", skip) for skip in (5, 10, 15)),
            )
        ),
        f"gains {SMOLLM2['svamp_test'].replace(' ', ' points ', 1)} on SVAMP, with",
        f"and {SMOLLM2['multiarith']} on MultiArith",
        *(
            f"{interval(gain('smollm2_baseline', benchmark=name, metric='sampled'), points, 'gain')} points"
            for name in ("svamp_test", "multiarith")
        ),
    ],
    "gradients": [
        f"is {BEFORE['base']} % of the on-policy gradient with `base`, {BEFORE['unit']} % with `unit`, "
        f"{BEFORE['retrace']} % with `retrace`",
        f"{min(NOISE):.0f} to {max(NOISE):.0f} % apart",
        f"is {min(COSINES['base'], COSINES['retrace']):.2f} or more with `base` and `retrace`",
        f"down to {COSINES['unit']:.2f} with `unit`",
        f"`retrace` has {VARIANCES['retrace']} times the on-policy variance, `base` {VARIANCES['base']}, `unit` "
        f"{VARIANCES['unit']}",
        f"differ by {100 * numbers(rows('smollm2', 'gradients'), 'noise_floor')[0]:.1f} % of the gradient's norm",
        *(f"| `{name}` | {by_completion(name)} |" for name in ("base", "unit", "retrace", "is_sequence")),
        f"{float(COMPLETIONS[0]['distinct']):.1f} distinct completions",
    ],
    "cheaper": [
        *(
            f"| {name}, {size} | " + " | ".join(interval(row, ratio) for row in cells(claim, size=size)) + " |"
            for claim, name in (("C1", "rollout"), ("C2", "whole step"))
            for size in ("small", "large")
        ),
        "{}, {} and {} (small)".format(
            *(ratio(value) for value in numbers(rows("laptop", "throughput", size="small"), "ideal_speedup")[1:])
        ),
        f"was {interval(cells('C1', 'smollm2', skip=15)[0], ratio)} times as fast at 15 %",
        f"above the ideal by FLOPs, {ratio(numbers(rows('smollm2', 'throughput', skip=15), 'ideal_speedup')[0])}",
        WORTH,
        f"{worth('smollm2', strategy='uniform, skip 10 %')} on SmolLM2 at 10 %",
    ],
}  # fmt: skip


def prose(text: str) -> str:
    """A page in one line, without code, links and the table of claims."""
    text = re.sub(r"^```.*?^```|^\| C\d [^\n]*$|<img.*?>", "", text, flags=re.MULTILINE | re.DOTALL)
    return " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())


@pytest.mark.parametrize("name", PAGES)
def test_every_fact_of_a_page_is_that_of_the_kept_runs(name: str) -> None:
    text = prose(PAGES[name])
    assert [fact for fact in FACTS[name] if fact not in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_number_of_a_page_is_in_a_fact(name: str) -> None:
    """Numbers with a decimal point; versions and the paper's number are none."""
    known = {number for fact in FACTS[name] for number in re.findall(r"\d+\.\d+", fact)}
    text = re.sub(r"arXiv \d+\.\d+|3\.11|Qwen2\.5|Apache-2\.0", "", prose(PAGES[name]))
    found = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", text))
    assert found - known == set()


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1200


def test_the_library_lines_run_as_they_are(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert max(map(len, code.splitlines())) <= 72
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (weight,) = re.findall(r"^without \(\d, \d\): mean weight (0\.\d+)$", done.stdout, re.MULTILINE)
    assert 0 < float(weight) < 1  # of retrace; two of ten layers were left out


def claims_table() -> dict[str, list[str]]:
    """The cells of each row of the README's table of claims."""
    lines = [line.strip("| ").split(" | ") for line in README.splitlines() if re.match(r"\| C\d", line)]
    lines = [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in line] for line in lines]
    return {line[0]: line[1:] for line in lines}


def entry(row: Row, unit: str) -> str:
    """What the table has of one row of the kept claims: mark, correction, number with the interval."""
    _, _, correction = row["id"].partition("-")
    if row["verdict"] == "not run":
        return f"{MARKS['not run']} not run"
    parts = [MARKS[row["verdict"]], correction] if correction else [MARKS[row["verdict"]]]
    measured = row["measured"].partition("): ")[2].partition("; ")[0].partition("], ")[0]
    value, _, limits = re.sub(r"(?<=\d)(×| %)", "", measured).replace("-", "−").rstrip("]").partition(" [")
    if value and value != "not resolved":
        parts.append(value + unit)
    text = " ".join([*parts, f"[{limits}]"] if limits else parts)
    if row["id"].startswith("C3") and (refuted := re.search(r"refuted at [\d, ]+ %", row["counts"])):
        return f"{text}, {refuted.group()}"
    return f"{text}, {row['counts'].partition(' pass')[0]} pass" if row["id"].startswith("C5") else text


@pytest.mark.parametrize(("run", "column"), [("laptop", 1), ("smollm2", 2)])
def test_the_table_of_claims_is_that_of_the_kept_run(run: str, column: int) -> None:
    """With a mark for each verdict; of C3 with the skips at which it is refuted, of C5 with how many cases pass."""
    units = {"C1": "×", "C2": "×", "C3": " %", "C4": "×", "C5": "", "C6": ""}
    expected: dict[str, list[str]] = {name: [] for name in units}
    found = {row["id"]: row for row in rows(run, "claims")}
    if run == "smollm2":  # its gradients were measured once more, by an estimator that decides
        found |= {row["id"]: row for row in rows("smollm2_gradients", "claims") if row["id"][:2] in ("C3", "C4")}
    for row in found.values():
        expected[row["id"][:2]].append(entry(row, units[row["id"][:2]]))
    if all(line.startswith(MARKS["not assessable"]) for line in expected["C5"]):
        expected["C5"] = [f"{MARKS['not assessable']} not assessable: see C6"]
    assert {name: line[column].split("<br>") for name, line in claims_table().items()} == expected


def test_the_claims_are_in_the_words_of_the_registry_and_the_marks_are_defined() -> None:
    """With their thresholds."""
    for name, (words, *_) in claims_table().items():
        kept = next(row["claim"] for row in rows("laptop", "claims") if row["id"][:2] == name)
        assert re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", words) == kept.partition(", with '")[0]
    legend = README.partition("## The claims")[2].partition("|")[0]
    names = {"inconclusive": "not resolved"}
    assert all(f"{mark} {names.get(verdict, verdict)}" in legend for verdict, mark in MARKS.items())
