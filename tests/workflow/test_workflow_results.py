"""The tiny experiment, run once and whole: what is there afterwards, and what a later change runs again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from workflow_harness import REPORT, Call, Finished, Pipeline, tiny_config

from nested_reft.config.experiment import parse_config
from nested_reft.report.registry import FIGURE_KINDS, FIGURES, PAGES, PRESENTATION_TABLES, TABLE_KINDS, TIDY_TABLES

pytestmark = pytest.mark.slow

RUNS = ["base/skip0/seed1", "base/skip17/seed1", "retrace/skip17/seed1"]
COLUMNS = {
    "runs": ["size", "dataset", "correction", "skip", "seed", "benchmark", "metric", "value", "n"],
    "throughput": ["size", "skip", "tokens_per_s", "speedup", "speedup_low", "speedup_high", "ideal_speedup", "n"],
    "step_speed": ["size", "skip", "seconds", "speedup", "speedup_low", "speedup_high", "n"],
    "claims": ["id", "claim", "measured", "low", "high", "verdict", "figure", "command"],
    "training": ["run", "step", "reward", "tokens_per_s", "skipped_layers", "loss", "ess"],
    "gradients": ["size", "skip", "correction", "bias", "noise_floor", "cosine", "variance_ratio"],
}
NOT_ASKED = ("strategies", "nestability", "nestability_by_size", "behaviours")
DRAWN = [name for name in FIGURES if name not in NOT_ASKED]
REPORTED = {"collect": 1, "presentation_tables": 1, "claims": 1, "figure": len(DRAWN), "page": len(PAGES)}
# Where no setting has changed, the page of the settings stays, and the figure of the method, which is made of no table.
REPORTED_AGAIN = REPORTED | {"page": len(PAGES) - 1, "figure": sum(bool(FIGURES[name].tables) for name in DRAWN)}

# --- the first call ---------------------------------------------------------------------------------------------


def test_the_settings_are_written_once_and_read_by_the_report(finished: Finished) -> None:
    written = parse_config(json.loads((finished.results / "settings.json").read_text(encoding="utf-8")))
    assert written == parse_config(tiny_config())


def test_a_second_call_does_nothing(finished: Finished) -> None:
    again = finished.pipeline.call(config=finished.config)
    assert again.code == 0
    assert "Nothing to be done" in again.output
    assert again.jobs == {}


def test_every_figure_and_table_is_there(finished: Finished) -> None:
    files = [f"figures/{name}.{kind}" for name in DRAWN for kind in FIGURE_KINDS]
    files += [f"tables/{name}.csv" for name in (*TIDY_TABLES, "verdicts", "cells")]
    files += [f"tables/{name}.{kind}" for name in (*PRESENTATION_TABLES, "claims") for kind in TABLE_KINDS]
    files += [f"pages/{name}.html" for name in PAGES]
    empty = [
        name
        for name in files
        if not (finished.results / name).is_file() or not (finished.results / name).stat().st_size
    ]
    assert empty == []


def test_every_job_left_a_log_and_a_benchmark(finished: Finished) -> None:
    def there(folder: str, suffix: str) -> set[str]:
        root = finished.results / folder
        return {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{suffix}")}

    trained = {f"train/tiny/stories/{run}" for run in RUNS}
    evaluated = {"evaluate/tiny/pretrained/0"} | {f"evaluate/tiny/stories/{run}/0" for run in RUNS}
    timed = {"step_speed/tiny/skip17", *(f"throughput/tiny/skip{skip}" for skip in (0, 17))}
    measured = {"gradients/tiny/on_policy", "gradients/tiny/skip17", "completion_gradients/tiny/skip17"}
    sources = {"data/train/stories", "data/test/heldout", "data/test/steps", "data/checked", "models/tiny"}
    drawn = (*(f"figure_{name}" for name in DRAWN), *(f"page_{name}" for name in PAGES))
    report = {f"report/{name}" for name in ("settings", "collect", "tables", "claims", *drawn)}
    jobs = trained | evaluated | timed | measured | sources | report | {"exact"}
    assert there("benchmarks", ".tsv") == jobs - {"data/checked", "report/settings"}  # which take no time
    assert there("logs", ".log") - {"warm"} == jobs  # of the process that jobs are forked from, on Linux
    assert "step 2/2" in (finished.results / "logs/train/tiny/stories/base/skip0/seed1.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_the_documented_columns(finished: Finished, name: str) -> None:
    table = pd.read_csv(finished.results / f"tables/{name}.csv")
    assert [column for column in table.columns if column in COLUMNS[name]] == COLUMNS[name]
    # 4 models x 2 benchmarks x 2 metrics; 2 skips; 3 runs x 2 steps; 4 corrections
    numbers = {"runs": 16, "throughput": 2, "step_speed": 1, "training": 6, "gradients": 4}
    assert len(table) == numbers.get(name, len(table))


def test_the_call_ends_with_verdicts_and_where_the_results_are(finished: Finished) -> None:
    end = finished.first.output[-3000:]
    assert "C1" in end
    assert "Figures: results/tiny/figures" in end
    assert "Tables:  results/tiny/tables (start with claims.md)" in end


# --- what a change runs again -----------------------------------------------------------------------------------


@pytest.fixture
def twin(finished: Finished, tmp_path: Path) -> Pipeline:
    """The finished experiment, to be changed by one test."""
    return finished.pipeline.twin(tmp_path / "twin")


def plan(pipeline: Pipeline, change: Callable[[dict[str, Any]], Any] | None = None, *arguments: str) -> Call:
    """A dry run, after a change to the configuration."""
    settings = tiny_config()
    if change:
        change(settings)
    return pipeline.dry_run(*arguments, config=pipeline.write_config(settings))


BIASED = {"gradients": 1, "completion_gradients": 1}
RETRAINED = {"train": 3, "step_speed": 1, "on_policy_gradients": 1} | BIASED
# The pre-trained model is evaluated again only if evaluation uses the edited file.
RETRAINED_ALONE = {"train": 3, "evaluate": 3}
REEVALUATED = RETRAINED | {"evaluate": 3} | REPORTED_AGAIN
RESAMPLED = RETRAINED | {"evaluate": 4, "throughput": 2} | REPORTED_AGAIN
EVERYTHING = RESAMPLED | {"data": 3, "check": 1, "model": 1}
WRITTEN = {"presentation_tables": 1, "claims": 1, "page": len(PAGES)}
EDITED = {
    "report/figures/draw.py": {"figure": len(DRAWN)},
    "report/figures/style.py": {"figure": len(DRAWN)},
    "report/figures/speed.py": {"figure": 2},
    "report/tables/write.py": {"presentation_tables": 1},
    "report/pages/page.py": WRITTEN,
    "report/pages/html.py": WRITTEN,
    "report/pages/templates/base.html": WRITTEN,
    "report/pages/runs.py": {"page": len(PAGES)},
    "core/loss.py": REEVALUATED | {"exact": 1},
    "core/advantages.py": REEVALUATED | {"exact": 1},
    # The report reads the registry too: names, looks and settings.
    "core/corrections.py": REEVALUATED | {"exact": 1} | REPORTED,
    "engine/logp.py": RESAMPLED,  # a loaded model is held against it
    "core/rollout.py": RESAMPLED,
    "engine/decoder.py": RESAMPLED,
    "engine/grouped_decoder.py": RESAMPLED,
    "engine/llama.py": RESAMPLED,
    "engine/matrices.py": RESAMPLED,
    "grading/grader.py": RETRAINED | {"evaluate": 4} | REPORTED_AGAIN,
    "config/evaluation.py": {"evaluate": 4} | REPORTED,
    # The schema of a result concerns who writes it and who reads it.
    "config/records/throughput.py": {"throughput": 2} | REPORTED_AGAIN,
    "config/records/training.py": RETRAINED_ALONE | REPORTED_AGAIN,
    "data/problems.py": EVERYTHING,
    # What fetches concerns nothing that was made here.
    "data/hub.py": {},
    "data/hub_models.py": {},
    "commands/fetch_data.py": {},
}


@pytest.mark.parametrize("source", EDITED)
def test_editing_a_source_runs_again_what_depends_on_it_and_nothing_else(twin: Pipeline, source: str) -> None:
    twin.edit(source)
    assert plan(twin).jobs == EDITED[source]


def more(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda settings: settings[key].append(value)


def changed(key: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda settings: settings.setdefault(key, {}).update(values)


ONE = {"train": 1, "evaluate": 1}
WIDE = tiny_config()["sizes"]["tiny"] | {"width": 64}
NUMBERS = tiny_config()["benchmarks"]["heldout"] | {"start": [21, 30]}
COMPARED = {"strategies": ["uniform", "static"], "skip": 17, "correction": "retrace"}


@pytest.mark.parametrize(
    ("change", "trained", "jobs"),
    [
        (
            more("skips", 33),
            ["tiny, stories, base, skip33, seed 1", "tiny, stories, retrace, skip33, seed 1"],
            {"train": 2, "evaluate": 2, "throughput": 1, "step_speed": 1} | BIASED,
        ),
        (
            more("seeds", 2),
            [f"tiny, stories, {cell}, seed 2" for cell in ("base, skip0", "base, skip17", "retrace, skip17")],
            {"train": 3, "evaluate": 3},
        ),
        (changed("corrections", unit={}), ["tiny, stories, unit, skip17, seed 1"], ONE),
        (changed("corrections", retrace={"lambda": 0.9}), ["tiny, stories, retrace, skip17, seed 1"], ONE),
        (changed("layer_choice", **COMPARED), ["tiny, stories, retrace, skip17-static, seed 1"], ONE),
        (changed("gradients", batches=5), [], {"on_policy_gradients": 1, "gradients": 1}),
        (changed("evaluation", samples_per_problem=3), [], {"evaluate": 4}),
        (changed("evaluation", headline="greedy", parity_margin=0.1), [], {}),
        (
            changed("sizes", wide=WIDE),
            [f"wide, stories, {cell}, seed 1" for cell in ("base, skip0", "base, skip17", "retrace, skip17")],
            RETRAINED | {"model": 1, "evaluate": 4, "throughput": 2},
        ),
    ],
    ids=["skip", "seed", "correction", "parameter", "strategy", "gradients", "evaluation", "judgement", "size"],
)
def test_a_changed_setting_runs_only_what_it_concerns(
    twin: Pipeline, change: Callable[[dict[str, Any]], Any], trained: list[str], jobs: dict[str, int]
) -> None:
    planned = plan(twin, change)
    assert planned.messages_of("Train") == {f"Train: {run}" for run in trained}
    assert {rule: count for rule, count in planned.jobs.items() if rule not in REPORT} == jobs


def test_one_more_benchmark_trains_nothing(twin: Pipeline) -> None:
    jobs = plan(twin, changed("benchmarks", numbers=NUMBERS)).jobs
    assert not {"train", "model", "throughput"} & jobs.keys()
    assert (jobs["data"], jobs["check"]) == (1, 1)
    assert sum(count for rule, count in jobs.items() if rule.startswith("evaluate")) == 4


def test_a_deleted_figure_is_drawn_again_alone(twin: Pipeline) -> None:
    (twin.results("tiny") / "figures/reward.png").unlink()
    done = twin.call(config=twin.write_config(tiny_config()))
    assert done.code == 0
    assert done.messages == {"Figure: reward"}
    assert (twin.results("tiny") / "figures/reward.png").stat().st_size > 0


def test_the_lock_of_the_hub_does_not_concern_an_experiment_that_needs_no_hub(twin: Pipeline) -> None:
    with (twin.folder / "config/hub.lock").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert plan(twin).jobs == {}


def test_more_cores_run_nothing_again(twin: Pipeline) -> None:
    assert plan(twin, None, "--cores", "7").jobs == {}


def test_a_moved_clone_stays_finished(finished: Finished, tmp_path: Path) -> None:
    moved = finished.pipeline.twin(tmp_path / "elsewhere" / "clone")
    assert moved.dry_run(config=finished.config).jobs == {}
