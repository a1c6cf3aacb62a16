"""The report's pages about the runs themselves: what they answered, what they were made with, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from nested_reft.config.experiment import Config
from nested_reft.config.run import STAGES
from nested_reft.report.pages.html import write_html
from nested_reft.report.pages.page import Page, write_table_html
from nested_reft.report.tidy import read_table

# Runs differ in these only if machines or versions were mixed, which the page is meant to show.
MADE_WITH = ["commit", "dirty", "python", "packages", "platform", "processor", "cores", "threads", "gpus"]


def write_samples(root: Path, config: Config) -> None:
    """Write `pages/samples.html` from `samples.csv`."""
    problems = samples(read_table(root, "samples"))
    disagreements = sum(problem["disagree"] for problem in problems)
    counted = (
        f"{len(problems)} problems, first the {disagreements} on which models of one size disagree; models by size, "
        "correction, share of layers skipped in training and seed."
    )
    write_html(root / "pages/samples.html", "samples", "Sample completions", problems=problems, counted=counted)


def write_environment(root: Path, config: Config) -> None:
    """Write `pages/environment.html` from `manifests.csv`."""
    write_table_html(root / "pages/environment.html", environment(read_table(root, "manifests")))


def write_settings(root: Path, config: Config) -> None:
    """Write `pages/settings.html`."""
    settings = yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
    title = f"Settings of the experiment {config.experiment}"
    write_html(root / "pages/settings.html", "settings", title, settings=settings)


def samples(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per problem: its prompt, gold answer, and by size every model's completions.

    Those that some models of a size got right and others wrong come first, otherwise in the table's order.
    """
    # Models of different sizes may have different chat templates, and so different prompts.
    key = ["benchmark", "problem", "prompt"]
    differ = table.groupby([*key, "size", "kind"])["right"].nunique().gt(1).groupby(level=key).any()
    problems: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        of = row["benchmark"], row["problem"], row["prompt"]
        known = {"benchmark": of[0], "id": of[1], "prompt": of[2], "gold": row["gold"], "disagree": bool(differ[of])}
        models = problems.setdefault(of, {**known, "answers": {}})["answers"].setdefault(row["size"], {})
        model = models.setdefault(_model(row), {"model": _model(row), "answers": {}})
        model["answers"][row["kind"]] = {"response": row["response"], "right": row["right"]}
    for problem in problems.values():
        problem["answers"] = {size: list(models.values()) for size, models in problem["answers"].items()}
    return sorted(problems.values(), key=lambda problem: not problem["disagree"])


def environment(table: pd.DataFrame) -> Page:
    """What the runs were made with, one column per variant, and every run's seconds and alarms."""
    if table.empty:
        return Page("Environment", (), "Not run.")
    texts = table.astype(str).replace({"": "none", "nan": "none", "<NA>": "none"})
    alike = texts.groupby(MADE_WITH, sort=False).size().reset_index(name="runs").astype(str)
    made = alike[["runs", *MADE_WITH]].T.reset_index()
    made.columns = pd.Index(["", *(str(column) for column in range(1, len(alike) + 1))])
    seconds = table["wall_seconds"]
    each = texts[["run", "settings_hash", "alarms"]].assign(seconds=[f"{value:.1f}" for value in seconds])
    notes = (
        f"{len(table)} training runs took {seconds.sum() / 3600:.2f} hours of wall-clock in all, side by side or not. "
        "dirty: whether the source had changes that are in no commit. alarms: steps and quantities far off-policy "
        "(`training.alarms`). The whole manifests, with all settings, stand beside each run: runs/*/manifest.json; "
        "where data and models came from: data/ and models/."
    )
    return Page("Environment", (("Made with", made), ("Training runs", each)), notes)


def _model(row: Mapping[Any, Any]) -> str:
    if row["correction"] in STAGES:
        return STAGES[row["correction"]]
    name = f"{row['correction']}, skip {row['skip']} %" if row["skip"] else "baseline ReFT"
    chosen = "" if row["strategy"] == "uniform" else f", {row['strategy']}"
    return f"{row['dataset']}: {name}{chosen}, seed {row['seed']}"
