"""The tiny experiment, run once and whole: what is there afterwards, and what a later change runs again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from workflow_harness import REPORT, Call, Finished, Pipeline, tiny_config

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
REPORTED = {"collect": 1, "presentation_tables": 1, "claims": 1, "figure": len(FIGURES), "page": len(PAGES)}
# Where no setting has changed, the page of the settings stays.
REPORTED_ANEW = REPORTED | {"page": len(PAGES) - 1}

# --- the first call ---------------------------------------------------------------------------------------------


def test_a_second_call_does_nothing(finished: Finished) -> None:
    again = finished.pipeline.call(config=finished.config)
    assert again.code == 0
    assert "Nothing to be done" in again.output
    assert again.jobs == {}


def test_every_figure_and_table_is_there(finished: Finished) -> None:
    files = [f"figures/{name}.{kind}" for name in FIGURES for kind in FIGURE_KINDS]
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
    measured = {"gradients/tiny/on_policy", "gradients/tiny/skip17"}
    sources = {"data/train/stories", "data/test/heldout", "data/test/steps", "data/checked", "models/tiny"}
    drawn = (*(f"figure_{name}" for name in FIGURES), *(f"page_{name}" for name in PAGES))
    report = {f"report/{name}" for name in ("collect", "tables", "claims", *drawn)}
    jobs = trained | evaluated | timed | measured | sources | report | {"exact"}
    assert there("benchmarks", ".tsv") == jobs - {"data/checked"}  # which takes no time
    assert there("logs", ".log") - {"warm"} == jobs  # of the process that jobs are forked from, on Linux
    assert "step 2/2" in (finished.results / "logs/train/tiny/stories/base/skip0/seed1.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_the_documented_columns(finished: Finished, name: str) -> None:
    table = pd.read_csv(finished.results / f"tables/{name}.csv")
    assert [column for column in table.columns if column in COLUMNS[name]] == COLUMNS[name]
    # 4 models x 2 benchmarks x 2 metrics; 2 skips; 3 runs x 2 steps; 4 corrections
    numbers = {"runs": 16, "throughput": 2, "step_speed": 1, "training": 6, "gradients": 4}
    assert len(table) == numbers.get(name, len(table))


def test_no_checkpoint_is_left(finished: Finished) -> None:
    assert list((finished.results / "checkpoints").rglob("*.safetensors")) == []


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


@pytest.mark.parametrize("source", ["report/figures/draw.py", "report/figures/style.py"])
def test_editing_what_all_figures_share_redraws_them_and_nothing_else(twin: Pipeline, source: str) -> None:
    twin.edit(source)
    assert plan(twin).jobs == {"figure": len(FIGURES)}


def test_editing_a_figure_redraws_those_of_its_module(twin: Pipeline) -> None:
    twin.edit("report/figures/speed.py")
    planned = plan(twin)
    assert planned.jobs == {"figure": 2}
    assert planned.messages == {"Figure: throughput", "Figure: time"}


@pytest.mark.parametrize(
    ("source", "samples", "exact"),
    [
        ("core/loss.py", False, True),
        ("core/advantages.py", False, True),
        ("engine/logp.py", False, False),
        ("core/rollout.py", True, False),
        ("engine/decoder.py", True, False),
        ("engine/grouped_decoder.py", True, False),
        ("engine/llama.py", True, False),
    ],
)
def test_editing_the_method_retrains_all_runs_and_pretrains_nothing(
    twin: Pipeline, source: str, samples: bool, exact: bool
) -> None:
    twin.edit(source)
    jobs = plan(twin).jobs
    assert jobs.pop("throughput", 0) == (2 if samples else 0)
    assert jobs.pop("exact", 0) == (1 if exact else 0)
    # the pre-trained model is evaluated again only if evaluation uses the edited file
    assert jobs.pop("evaluate") == (4 if samples else 3)
    assert jobs == {"train": 3, "step_speed": 1, "on_policy_gradients": 1, "gradients": 1} | REPORTED_ANEW


def test_editing_the_registry_of_corrections_retrains_and_redraws_all(twin: Pipeline) -> None:
    """The report reads it too: names, looks and settings."""
    twin.edit("core/corrections.py")
    measured = {"step_speed": 1, "on_policy_gradients": 1, "gradients": 1, "exact": 1}
    assert plan(twin).jobs == {"train": 3, "evaluate": 3} | measured | REPORTED


def test_editing_the_settings_of_evaluation_trains_nothing(twin: Pipeline) -> None:
    twin.edit("config/evaluation.py")
    assert plan(twin).jobs == {"evaluate": 4} | REPORTED


def test_editing_how_problems_are_generated_makes_everything_again(twin: Pipeline) -> None:
    twin.edit("data/problems.py")
    jobs = plan(twin).jobs
    assert jobs.pop("check") == 1
    everything = {"data": 3, "model": 1, "train": 3, "evaluate": 4, "throughput": 2, "step_speed": 1}
    everything |= {"on_policy_gradients": 1, "gradients": 1}
    assert jobs == everything | REPORTED_ANEW


@pytest.mark.parametrize("source", ["data/hub.py", "data/hub_models.py", "commands/fetch_data.py"])
def test_editing_what_fetches_makes_nothing_again_that_was_made_here(twin: Pipeline, source: str) -> None:
    twin.edit(source)
    assert plan(twin).jobs == {}


def test_editing_the_grading_retrains_and_reevaluates_all(twin: Pipeline) -> None:
    twin.edit("grading/grader.py")
    jobs = plan(twin).jobs
    measured = {"step_speed": 1, "on_policy_gradients": 1, "gradients": 1}
    assert jobs == {"train": 3, "evaluate": 4} | measured | REPORTED_ANEW


def test_editing_a_table_writes_tables_alone(twin: Pipeline) -> None:
    twin.edit("report/tables/write.py")
    assert plan(twin).jobs == {"presentation_tables": 1}


@pytest.mark.parametrize("source", ["report/pages/page.py", "report/pages/html.py", "report/pages/templates/base.html"])
def test_editing_how_tables_are_written_writes_claims_and_pages_too(twin: Pipeline, source: str) -> None:
    twin.edit(source)
    assert plan(twin).jobs == {"presentation_tables": 1, "claims": 1, "page": len(PAGES)}


def test_editing_a_page_writes_pages_alone(twin: Pipeline) -> None:
    twin.edit("report/pages/runs.py")
    assert plan(twin).jobs == {"page": len(PAGES)}


def test_one_more_skip_runs_only_its_own_runs(twin: Pipeline) -> None:
    planned = plan(twin, lambda settings: settings["skips"].append(33))
    new = {f"Train: tiny, stories, {correction}, skip33, seed 1" for correction in ("base", "retrace")}
    assert planned.messages_of("Train") == new
    assert planned.messages_of("Throughput") == {"Throughput, alone on the machine: tiny, skip 33 %"}
    measured = {"throughput": 1, "step_speed": 1, "gradients": 1}
    assert planned.jobs == {"train": 2, "evaluate": 2} | measured | REPORTED


def test_one_more_seed_runs_only_its_own_runs(twin: Pipeline) -> None:
    planned = plan(twin, lambda settings: settings["seeds"].append(2))
    assert len(planned.messages_of("Train")) == 3
    assert all(message.endswith("seed 2") for message in planned.messages_of("Train"))
    assert {rule: count for rule, count in planned.jobs.items() if rule not in REPORT} == {"train": 3, "evaluate": 3}


def test_one_more_correction_runs_only_its_own_run(twin: Pipeline) -> None:
    planned = plan(twin, lambda settings: settings["corrections"].update(unit={}))
    assert planned.messages_of("Train") == {"Train: tiny, stories, unit, skip17, seed 1"}
    assert {rule: count for rule, count in planned.jobs.items() if rule not in REPORT} == {"train": 1, "evaluate": 1}


def test_one_more_strategy_runs_only_its_own_run(twin: Pipeline) -> None:
    compared = {"strategies": ["uniform", "static"], "skip": 17, "correction": "retrace"}
    planned = plan(twin, lambda settings: settings.update(layer_choice=compared))
    assert planned.messages_of("Train") == {"Train: tiny, stories, retrace, skip17-static, seed 1"}
    assert {rule: count for rule, count in planned.jobs.items() if rule not in REPORT} == {"train": 1, "evaluate": 1}


def test_a_setting_of_the_gradients_measures_them_alone(twin: Pipeline) -> None:
    planned = plan(twin, lambda settings: settings["gradients"].update(batches=5))
    measured = {rule: count for rule, count in planned.jobs.items() if rule not in REPORT}
    assert measured == {"on_policy_gradients": 1, "gradients": 1}


def test_a_parameter_of_one_correction_retrains_only_its_runs(twin: Pipeline) -> None:
    planned = plan(twin, lambda settings: settings["corrections"].update(retrace={"lambda": 0.9}))
    assert planned.messages_of("Train") == {"Train: tiny, stories, retrace, skip17, seed 1"}
    assert planned.jobs["evaluate"] == 1


def test_an_evaluation_setting_evaluates_again_and_trains_nothing(twin: Pipeline) -> None:
    planned = plan(twin, lambda settings: settings["evaluation"].update(samples_per_problem=3))
    assert {rule: count for rule, count in planned.jobs.items() if rule not in REPORT} == {"evaluate": 4}


def test_one_more_size_trains_only_that_size(twin: Pipeline) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["sizes"]["wide"] = settings["sizes"]["tiny"] | {"width": 64}

    planned = plan(twin, change)
    assert all(message.startswith("Train: wide") for message in planned.messages_of("Train"))
    assert {rule: count for rule, count in planned.jobs.items() if rule not in REPORT} == {
        "model": 1, "train": 3, "evaluate": 4, "throughput": 2, "step_speed": 1,
        "on_policy_gradients": 1, "gradients": 1,
    }  # fmt: skip


def test_one_more_benchmark_trains_nothing(twin: Pipeline) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["benchmarks"]["numbers"] = settings["benchmarks"]["heldout"] | {"start": [21, 30]}

    jobs = plan(twin, change).jobs
    assert "train" not in jobs
    assert "model" not in jobs
    assert "throughput" not in jobs
    assert jobs["data"] == 1
    assert jobs["check"] == 1
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
