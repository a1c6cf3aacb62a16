"""Figures: what is drawn is what was measured."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from synthetic import Effects, collect_results, make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.accuracy import accuracy, parity_plot
from nested_reft.report.figures.draw import draw
from nested_reft.report.figures.gradients import gradients
from nested_reft.report.figures.learning import reward, smoothing_window
from nested_reft.report.figures.off_policyness import off_policyness
from nested_reft.report.figures.speed import PARTS, throughput, time
from nested_reft.report.figures.strategies import strategies
from nested_reft.report.figures.style import BASELINE, NOISE, RC, look_of
from nested_reft.report.registry import FIGURES
from nested_reft.report.tidy import read_table


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def points(axis) -> np.ndarray:
    """All scattered points (n, 2) of a panel."""
    scattered = [c for c in axis.collections if isinstance(c, PathCollection)]
    return np.concatenate([np.asarray(c.get_offsets()) for c in scattered])


def test_throughput_draws_medians_pairs_and_ideal(collected: Path, small: Config) -> None:
    summary, pairs = read_table(collected, "throughput"), read_table(collected, "throughput_pairs")
    figure = throughput(summary, pairs, small)
    assert [axis.get_title() for axis in figure.axes] == ["small", "large"]
    for axis in figure.axes:
        table = summary[summary["size"] == axis.get_title()]
        _, ideal, measured = axis.lines
        assert list(ideal.get_ydata()) == list(table["ideal_speedup"])
        assert list(measured.get_xdata()) == [0, 10, 20]
        assert list(measured.get_ydata()) == list(table["speedup"])
        expected = pairs[pairs["size"] == axis.get_title()]["speedup"]
        assert sorted(points(axis)[:, 1]) == sorted(expected)
        assert f"measured {table['speedup'].iloc[-1]:.2f}×" in texts(axis)


def test_time_bars_are_medians_over_the_full_step_of_the_same_pair(collected: Path, small: Config) -> None:
    summary, pairs = read_table(collected, "step_speed"), read_table(collected, "step_speed_pairs")
    for axis in time(summary, pairs, small).axes:
        chosen = pairs[pairs["size"] == axis.get_title()]
        bars = iter(axis.patches)
        heights = []
        full = sum(chosen[f"baseline_{part}_seconds"] for part in PARTS)
        for part in PARTS:
            # The full model's are those of all pairs, whatever the skip of the other side.
            medians = [(chosen[f"baseline_{part}_seconds"] / full).median()]
            own = chosen[f"nested_{part}_seconds"] / full
            medians += [own[chosen["skip"] == skip].median() for skip in (10, 20)]
            assert [bar.get_height() for _, bar in zip(range(3), bars, strict=False)] == pytest.approx(medians)
            heights.append(medians)
        shares, above = texts(axis)[::2], texts(axis)[1::2]
        whole = [sum(column) for column in zip(*heights, strict=True)]
        assert shares == [f"{100 * own / all_of_it:.0f} %" for own, all_of_it in zip(heights[0], whole, strict=True)]
        speedups = summary[summary["size"] == axis.get_title()].set_index("skip")["speedup"]
        assert above == [f"{full.median():.2g} s", *(f"{speedups[skip]:.2f}×" for skip in (10, 20))]


def test_a_drift_between_two_jobs_does_not_change_the_bars(collected: Path, small: Config) -> None:
    summary, pairs = read_table(collected, "step_speed"), read_table(collected, "step_speed_pairs")
    seconds = [column for column in pairs if column.endswith("_seconds")]
    slower = pairs.astype(dict.fromkeys(seconds, float))
    slower.loc[pairs["skip"] == 10, seconds] *= 1.5

    def heights(table: pd.DataFrame) -> list[float]:
        return [bar.get_height() for axis in time(summary, table, small).axes for bar in axis.patches]

    assert heights(slower) == pytest.approx(heights(pairs))


def test_reward_lines_are_means_over_seeds(collected: Path, small: Config) -> None:
    training = read_table(collected, "training")
    figure = reward(training, small)
    assert len(figure.axes) == 2 * 2  # sizes x skips
    assert smoothing_window(small.training.steps) == 1
    chosen = training[(training["size"] == "small") & (training["skip"] == 10)]
    for line, correction in zip(figure.axes[0].lines, small.corrections, strict=False):
        expected = chosen[chosen["correction"] == correction].groupby("step")["reward"].mean()
        assert list(line.get_ydata()) == pytest.approx(list(expected))
        assert to_rgb(line.get_color()) == to_rgb(look_of(correction).color)
    baseline = training[(training["size"] == "small") & (training["skip"] == 0)]
    assert list(figure.axes[0].lines[-1].get_ydata()) == pytest.approx(list(baseline.groupby("step")["reward"].mean()))


@pytest.mark.parametrize(("steps", "window"), [(4, 1), (10, 1), (20, 3), (40, 5), (100, 11)])
def test_smoothing_window_is_odd_and_about_a_tenth(steps: int, window: int) -> None:
    assert smoothing_window(steps) == window


def test_off_policyness_draws_every_seed_and_the_mean(collected: Path, small: Config) -> None:
    training = read_table(collected, "training")
    axis = off_policyness(training, small).axes[0]
    assert len(points(axis)) == 3 * (1 + 3 * 2)
    by_skip = training[training["size"] == "small"].groupby("skip")["kl_k3"].mean()
    drawn = sorted(float(line.get_ydata()[0]) for line in axis.lines)
    assert drawn == pytest.approx(sorted([by_skip[0], *[by_skip[10]] * 3, *[by_skip[20]] * 3]))


def test_accuracy_draws_every_seed_mean_and_reference(collected: Path, small: Config) -> None:
    runs = read_table(collected, "runs")
    figure = accuracy(runs, small)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["heldout", "steps", "mean"]
    for benchmark, axis in zip(("heldout", "steps"), figure.axes[:2], strict=True):
        chosen = runs[(runs["size"] == "small") & (runs["benchmark"] == benchmark) & (runs["metric"] == "sampled")]
        tuned = chosen[chosen["correction"] != "pretrained"]
        assert sorted(points(axis)[:, 1]) == pytest.approx(sorted(100 * tuned["value"]))
        start, baseline = axis.lines[:2]
        assert start.get_ydata()[0] == pytest.approx(
            100 * chosen.loc[chosen["correction"] == "pretrained", "value"].item()
        )
        assert baseline.get_ydata()[0] == pytest.approx(100 * tuned.loc[tuned["skip"] == 0, "value"].mean())
    # The mean panel: each seed's mean over benchmarks.
    both = runs[(runs["size"] == "small") & (runs["metric"] == "sampled") & (runs["correction"] != "pretrained")]
    means = both.groupby(["correction", "skip", "seed"])["value"].mean()
    assert sorted(points(figure.axes[2])[:, 1]) == pytest.approx(sorted(100 * means))


def test_parity_markers_are_filled_where_equivalent(collected: Path, small: Config) -> None:
    runs = read_table(collected, "runs")
    generous = small.model_copy(update={"evaluation": small.evaluation.model_copy(update={"parity_margin": 0.9})})
    strict = small.model_copy(update={"evaluation": small.evaluation.model_copy(update={"parity_margin": 1e-6})})
    for config, hollow in ((generous, False), (strict, True)):
        axis = parity_plot(runs, config).axes[0]
        markers = axis.lines[1:]  # the first line marks 0
        assert len(markers) == 6
        assert all((line.get_markerfacecolor() == "white") == hollow for line in markers)
        assert len(points(axis)) == 6 * 3


def markers(axis) -> dict[str, list[tuple[float, bool]]]:
    """(height, filled) of the drawn markers of a panel by colour, from left to right."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for line in axis.lines:
        if line.get_marker() not in ("None", "", None):
            found.setdefault(line.get_color(), []).append((line.get_ydata()[0], line.get_markerfacecolor() != "white"))
    return found


def test_gradients_draw_bias_variance_and_the_noise(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10, 20), gradients=("unit", "is_sequence"), steps=1)
    collect_results(tmp_path, config, Effects(bias={"unit": 0.5}, variance={"unit": 5.0}))
    table = read_table(tmp_path, "gradients")
    above, below = gradients(table, config).axes
    biases, variances = markers(above), markers(below)
    # A negative square has no estimate: the marker is at the upper bound.
    table["shown"] = table["bias_debiased"].fillna(table["bias_high"])
    for name, good in (("unit", False), ("is_sequence", True)):
        of_name = table[table["correction"] == name]
        assert biases[look_of(name).color] == [(value, good) for value in of_name["shown"]]
        assert variances[look_of(name).color] == [(value, good) for value in of_name["variance_ratio"]]
    control = table.drop_duplicates("skip")
    assert [value for value, _ in biases[NOISE.color]] == list(control["control"].fillna(control["control_high"]))
    assert levels(above) == pytest.approx(list(control["noise_floor"]))
    assert above.get_yscale() == "linear"
    assert below.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in below.lines[:2]] == [[1, 1], [2, 2]]


def levels(axis) -> list[float]:
    """Heights of the horizontal lines of a panel that are a skip's."""
    return [y for lines in axis.collections for (x, y), (_, end) in lines.get_segments() if y == end and x < 2]


def test_what_is_not_resolved_is_pale_and_has_no_estimate(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10,), gradients=("unit", "is_sequence"), steps=1, batches=6)
    collect_results(tmp_path, config, Effects(bias={"unit": 9.0}, gradient_noise=1.0))
    table = read_table(tmp_path, "gradients").set_index("correction")
    assert table.loc["is_sequence", "noise_floor"] > config.gradients.bias_margin
    above = gradients(table.reset_index(), config).axes[0]
    drawn = {line.get_color(): line for line in above.lines if line.get_marker() not in ("None", "", None)}
    lost, found = drawn[look_of("is_sequence").color], drawn[look_of("unit").color]
    assert (lost.get_ydata()[0], lost.get_markerfacecolor()) == (table.loc["is_sequence", "bias_high"], "white")
    assert lost.get_alpha() < 1
    assert (found.get_ydata()[0], found.get_alpha()) == (table.loc["unit", "bias_debiased"], 1)


def test_large_biases_stay_readable_beside_small_ones(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10,), gradients=("unit", "is_sequence"), steps=1)
    collect_results(tmp_path, config, Effects(bias={"unit": 30.0}))
    table = read_table(tmp_path, "gradients")
    axis = gradients(table, config).axes[0]
    low, high = axis.get_ylim()
    assert axis.get_yscale() == "symlog"
    assert low < 0
    assert high > table["bias_high"].max()
    assert {0, 0.1, 1.0} <= set(axis.get_yticks())


def test_wide_intervals_leave_the_ticks_readable(collected: Path, small: Config) -> None:
    table = read_table(collected, "gradients")
    table.loc[0, ["variance_low", "variance_high", "bias_high"]] = [1e-3, 1e12, 1e5]
    for axis in gradients(table, small).axes[::2]:
        low, high = axis.get_ylim()
        shown = [tick for tick in axis.get_yticks() if low <= tick <= high]
        assert 4 <= len(shown) <= 10
        assert high >= (1e5 if axis.get_yscale() == "symlog" else 1e12)
    assert 1 in shown


def test_gradients_say_what_is_missing(tmp_path: Path, small: Config) -> None:
    write_results(tmp_path, small)
    (tmp_path / "gradients/small/skip20.json").unlink()
    collect(tmp_path, small)
    table = read_table(tmp_path, "gradients")
    table.loc[(table["size"] == "large") & (table["correction"] == "base"), ["bias_debiased", "bias_low"]] = np.nan
    figure = gradients(table, small)
    assert [texts(axis) for axis in figure.axes] == [["not run"], ["not resolved"] * 2, ["not run"], []]


def test_strategies_draw_differences_and_off_policyness(tmp_path: Path) -> None:
    config = make_config(sizes=2, skips=(10,), steps=1, strategies=("uniform", "static"))
    collect_results(tmp_path, config, Effects(cost=0.2, strategy_cost={"static": 0.1}))
    table = read_table(tmp_path, "strategies")
    figure = strategies(table, config)
    assert len(figure.axes) == 2 * 3
    difference, kl, ess = figure.axes[:3]
    drawn = [(line.get_xdata()[0], line.get_markerfacecolor() != "white") for line in difference.lines[1:]]
    assert drawn == [(pytest.approx(-2.0), True), (pytest.approx(-12.0), False)]  # the margin is 5
    for axis, metric in ((kl, "kl_k3"), (ess, "ess")):
        chosen = table[(table["size"] == "small") & (table["skip"] == 10) & (table["metric"] == metric)]
        means = chosen.groupby("strategy", sort=False)["value"].mean()
        assert [line.get_xdata()[0] for line in axis.lines] == pytest.approx(list(means))
        assert len(points(axis)) == 2 * 3
    assert [label.get_text() for label in difference.get_yticklabels()] == ["uniform", "static"]


def test_a_strategy_that_was_not_run_says_so(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10,), steps=1, strategies=("uniform", "static"))
    write_results(tmp_path, config)
    for seed in config.seeds:
        (tmp_path / f"evaluations/small/stories/retrace/skip10-static/seed{seed}/heldout.json").unlink()
        (tmp_path / f"runs/small/stories/retrace/skip10-static/seed{seed}/metrics.jsonl").unlink()
    collect(tmp_path, config)
    figure = strategies(read_table(tmp_path, "strategies"), config)
    assert [texts(axis) for axis in figure.axes] == [["not run"]] * 3


def test_nothing_run_is_said_in_every_panel(tmp_path: Path, small: Config) -> None:
    collect(tmp_path, small)
    for name, entry in FIGURES.items():
        figure = FIGURES[name].load()(*(read_table(tmp_path, table) for table in entry.tables), small)
        assert all("not run" in texts(axis) for axis in figure.axes)


@pytest.mark.parametrize("datasets", [1, 2])
def test_panels_follow_the_data_sets(tmp_path: Path, datasets: int) -> None:
    config = make_config(datasets=datasets, benchmarks=1)
    collect(tmp_path, config)
    assert len(accuracy(read_table(tmp_path, "runs"), config).axes) == 2 * datasets


def test_every_correction_looks_its_own() -> None:
    looks = [*map(look_of, CORRECTIONS), BASELINE]
    assert len({look.color for look in looks}) == len(looks)
    assert len({look_of(name).marker for name in CORRECTIONS}) == len(CORRECTIONS)


def test_files_are_the_same_twice(collected: Path, small: Config) -> None:
    before = dict(mpl.rcParams)
    draw("throughput", collected, small)
    stem = collected / "figures" / "throughput"
    first = [stem.with_suffix(suffix).read_bytes() for suffix in (".png", ".svg")]
    draw("throughput", collected, small)
    assert [stem.with_suffix(suffix).read_bytes() for suffix in (".png", ".svg")] == first
    assert dict(mpl.rcParams) == before  # the style does not leak
    assert set(RC) <= set(before)


def test_rounding_does_not_fill_a_panel_of_accuracies(tmp_path: Path) -> None:
    config = make_config(sizes=1, seeds=(1,))
    collect_results(tmp_path, config, Effects(pretrained=0.0, learned=0.0, cost=0.0))
    for axis in accuracy(read_table(tmp_path, "runs"), config).axes:
        low, high = axis.get_ylim()
        assert high - low >= 2
