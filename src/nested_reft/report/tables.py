"""The tables that people read, as Markdown and CSV: accuracy, throughput, parity with the baseline, and claims.

A cell that was not run says so. What varies and what the interval is stands under each table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nested_reft.config import BASELINE_CORRECTION, PRETRAINED, Config
from nested_reft.report.collect import nested_skips, read_table, write_table
from nested_reft.report.effects import parity, rollout_speedups, step_speedups
from nested_reft.report.statistics import (
    Interval,
    equivalence,
    interquartile_mean,
    stratified_bootstrap,
    t_interval,
)

NOT_RUN = "not run"
METRICS = ("sampled", "greedy")


def write_tables(root: Path, config: Config) -> None:
    """Write `tables/{accuracy_sampled,accuracy_greedy,speedup,equivalence}.{csv,md}` from the tables of `collect`."""
    runs, training, throughput = (read_table(root, name) for name in ("runs", "training", "throughput"))
    for metric in METRICS:
        table = accuracy_table(runs, config, metric)
        write_table(root, f"accuracy_{metric}", table)
        write_markdown(root, f"accuracy_{metric}", accuracy_markdown(table, config, metric))
    speedup = speedup_table(throughput, training, config)
    write_table(root, "speedup", speedup)
    write_markdown(root, "speedup", speedup_markdown(speedup))
    equivalent = equivalence_table(runs, config)
    write_table(root, "equivalence", equivalent)
    write_markdown(root, "equivalence", equivalence_markdown(equivalent, config))


def accuracy_table(runs: pd.DataFrame, config: Config, metric: str) -> pd.DataFrame:
    """Accuracy in percent, one row per data set, size and model, one column per benchmark, then mean and IQM."""
    models = [(PRETRAINED, 0), (BASELINE_CORRECTION, 0)]
    models += [(correction, skip) for correction in config.corrections for skip in nested_skips(config)]
    chosen = runs[runs["metric"] == metric]
    rows = []
    for dataset in config.datasets:
        for size in config.sizes:
            for correction, skip in models:
                cell = chosen[
                    (chosen["size"] == size) & (chosen["correction"] == correction) & (chosen["skip"] == skip)
                ]
                # The pre-trained model belongs to no data set and is shown with each.
                cell = cell[cell["dataset"] == ("" if correction == PRETRAINED else dataset)]
                rows.append(
                    {
                        "dataset": dataset,
                        "size": size,
                        "model": _model_name(correction, skip),
                        **_accuracy_cells(cell, list(config.benchmarks)),
                    }
                )
    return pd.DataFrame(rows)


def speedup_table(throughput: pd.DataFrame, training: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Rollout and whole-step speed-up over the full model, one row per size and skip."""
    rollouts, steps = rollout_speedups(throughput, config), step_speedups(training, config)
    rows = []
    for (size, skip), rollout in rollouts.items():
        measured = throughput[(throughput["size"] == size) & (throughput["skip"] == skip)]
        row = {"size": size, "skip %": str(skip)}
        row["rollout tokens/s"] = f"{measured['tokens_per_s'].iloc[0]:,.0f}" if rollout else NOT_RUN
        row["rollout speed-up"] = _ratio(rollout)
        row["ideal"] = f"{measured['ideal_speedup'].iloc[0]:.2f}" if rollout else NOT_RUN
        row["pairs"] = str(rollout.n) if rollout else ""
        for dataset in config.datasets:
            row[f"step speed-up, {dataset}"] = _ratio(steps[size, dataset, skip]) if skip else "1"
        rows.append(row)
    return pd.DataFrame(rows)


def equivalence_table(runs: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Nested minus baseline accuracy (points, mean over benchmarks, headline metric) against the parity margin."""
    margin = config.evaluation.parity_margin
    rows = []
    for (size, dataset, correction, skip), found in parity(runs, config, config.evaluation.headline).items():
        row = {"dataset": dataset, "size": size, "correction": correction, "skip %": str(skip)}
        if found is None:
            row |= {"difference": NOT_RUN, "low": "", "high": "", "margin": "", "seeds": "0", "verdict": NOT_RUN}
        else:
            row |= {
                "difference": f"{100 * found.estimate:+.1f}",
                "low": f"{100 * found.low:+.1f}" if found.exists else "",
                "high": f"{100 * found.high:+.1f}" if found.exists else "",
                "margin": f"{100 * margin:g}",
                "seeds": str(found.n),
                "verdict": equivalence(found.low, found.high, margin),
            }
        rows.append(row)
    return pd.DataFrame(rows).sort_values("dataset", key=lambda d: d.map(list(config.datasets).index), kind="stable")


def accuracy_markdown(table: pd.DataFrame, config: Config, metric: str) -> str:
    """The accuracy table as one section per fine-tuning data set."""
    role = "headline" if metric == config.evaluation.headline else "second"
    text = f"# Accuracy, {metric} ({role} metric)\n"
    for dataset in config.datasets:
        part = table[table["dataset"] == dataset].drop(columns="dataset")
        text += f"\n## Fine-tuning on {dataset}\n\n{markdown(part)}\n"
    return text + (
        f"\nAccuracy in percent on held-out problems, mean over training seeds ({len(config.seeds)}) ± half-width of "
        "the 95 % Student-t interval over seeds. IQM: interquartile mean over seeds and benchmarks with its 95 % "
        "bootstrap interval over seeds, stratified by benchmark (Agarwal et al. 2021). One seed, or the pre-trained "
        "model, has no interval.\n"
    )


def speedup_markdown(table: pd.DataFrame) -> str:
    """The speed table with its notes."""
    return f"# Speed\n\n{markdown(table)}\n\n" + (
        "Skip 0 pairs the full model with itself and shows the noise. "
        "Rollout: timed alone on the machine, full and nested model in turn; median over pairs with its 95 % bootstrap "
        "interval. Ideal: the cost of all layers over that of the layers kept, embedding and LM head counted. "
        "Step: end-to-end tokens/s of training over the baseline's, geometric mean over seeds with its 95 % t "
        "interval; training jobs share the machine, so this one is noisy.\n"
    )


def equivalence_markdown(table: pd.DataFrame, config: Config) -> str:
    """The parity table with its notes."""
    return f"# Parity with baseline ReFT\n\n{markdown(table)}\n\n" + (
        f"Difference in {config.evaluation.headline} accuracy (percentage points, mean over benchmarks), nested minus "
        "baseline of the same seed on identical problems; `low` and `high` bound the 95 % Student-t interval over "
        "seeds. Equivalent: the interval lies within ± margin. Worse, better: it lies wholly beyond. Inconclusive: "
        "neither, which more seeds could settle.\n"
    )


def claims_markdown(claims: pd.DataFrame, config: Config) -> str:
    """The claims table with the rules of its verdicts."""
    table = claims.drop(columns=["low", "high"]).fillna("").astype(str)
    table["figure"] = [f"[{Path(f).stem}](../{f})" if f else "" for f in table["figure"]]
    table["command"] = [f"`{command}`" if command else "" for command in table["command"]]
    return f"# Claims\n\n{markdown(table)}\n\n" + (
        "Supported: every cell (a size, with data set and skip where the claim has them) passes. Partly: some do. "
        "Not: none does. Not run: no cell could be judged; one seed gives no interval and so no verdict. A cell "
        "passes if its whole 95 % interval lies above 1 (C1, C2; C1 must also rise with the skip), within "
        f"± {100 * config.evaluation.parity_margin:g} points (C5), or above 0 with a gain of at least 10 points (C6). "
        "Brackets: the 95 % interval of the worst cell, the one with the lowest estimate; C5 and C6 in percentage "
        "points.\n"
    )


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown, as it stands: no text is taken for a number and rounded."""
    return str(table.to_markdown(index=False, disable_numparse=True))


def _accuracy_cells(cell: pd.DataFrame, benchmarks: list[str]) -> dict[str, str]:
    """The texts of one model's row, from its tidy rows: one value per benchmark and seed."""
    # The pre-trained model has no seed, and a pivot would drop it.
    scores = (
        cell.fillna({"seed": 0}).pivot(index="seed", columns="benchmark", values="value").reindex(columns=benchmarks)
    )
    texts = {name: _percent(scores[name].dropna().to_numpy()) for name in benchmarks}
    complete = scores.dropna().to_numpy(dtype=np.float64)
    texts["mean"] = _percent(complete.mean(axis=1)) if len(complete) else NOT_RUN
    texts["IQM"] = _iqm(complete) if len(complete) else NOT_RUN
    return texts


def _percent(values: np.ndarray) -> str:
    if not len(values):
        return NOT_RUN
    interval = t_interval(values)
    half = f" ± {100 * (interval.high - interval.estimate):.1f}" if interval.exists else ""
    return f"{100 * interval.estimate:.1f}{half}"


def _iqm(scores: np.ndarray) -> str:
    interval = stratified_bootstrap(scores, interquartile_mean)
    bounds = f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval.exists else ""
    return f"{100 * interval.estimate:.1f}{bounds}"


def _ratio(interval: Interval | None) -> str:
    if interval is None:
        return NOT_RUN
    bounds = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval.exists else ""
    return f"{interval.estimate:.2f}{bounds}"


def _model_name(correction: str, skip: int) -> str:
    if correction == PRETRAINED:
        return "pre-trained"
    return f"{correction}, skip {skip} %" if skip else "baseline ReFT"


def write_markdown(root: Path, name: str, text: str) -> None:
    """Write `tables/{name}.md`."""
    (root / "tables" / f"{name}.md").write_text(text, encoding="utf-8")
