"""Figures: what is drawn is what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from synthetic import Effects, collect_results, make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.draw import draw
from nested_reft.report.figures.layers import left_out
from nested_reft.report.figures.learning import smoothing_window
from nested_reft.report.figures.speed import PARTS
from nested_reft.report.figures.style import BASELINE, DARK, INK, NOISE, PAPER, RC, look_of
from nested_reft.report.figures.tradeoff import spread
from nested_reft.report.registry import FIGURES
from nested_reft.report.tidy import read_table


def drawn(root: Path, config: Config, name: str, **tables: pd.DataFrame) -> Figure:
    """A figure from the tables under `root`, but for those that are given."""
    read = (tables[table] if table in tables else read_table(root, table) for table in FIGURES[name].tables)
    return FIGURES[name].load()(*read, config)


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def points(axis) -> np.ndarray:
    """All scattered points (n, 2) of a panel."""
    scattered = [c for c in axis.collections if isinstance(c, PathCollection)]
    return np.concatenate([np.asarray(c.get_offsets()) for c in scattered])


def bars(axis, color: str) -> list[tuple[float, float, float, float]]:
    """(x, y, x, y) of the straight lines of intervals in a colour."""
    found = [c for c in axis.collections if isinstance(c, LineCollection) and to_hex(c.get_color()[0]) == color.lower()]
    return [tuple(map(float, segment.flatten())) for c in found for segment in c.get_segments()]


def marks(axis) -> dict[str, list[tuple[float, float, str]]]:
    """x, y and verdict of the single marks of a panel, by colour."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for line in axis.lines:
        if len(line.get_xdata()) == 1 and line.get_marker() not in ("None", "", None):
            face = {PAPER: "undecided"}.get(line.get_markerfacecolor(), "passes")
            verdict = {"x": "fails", "|": "not assessable"}.get(line.get_marker(), face)
            found.setdefault(line.get_color(), []).append((line.get_xdata()[0], line.get_ydata()[0], verdict))
    return found


def with_margin(config: Config, margin: float) -> Config:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"parity_margin": margin})})


# --- speed ------------------------------------------------------------------------------------------------------


def test_throughput_draws_medians_pairs_and_ideal(collected: Path, small: Config) -> None:
    summary, pairs = read_table(collected, "throughput"), read_table(collected, "throughput_pairs")
    figure = drawn(collected, small, "throughput")
    assert [axis.get_title() for axis in figure.axes] == ["small", "large"]
    for axis in figure.axes:
        table = summary[summary["size"] == axis.get_title()]
        of_size = pairs[pairs["size"] == axis.get_title()]
        _, ideal, measured = axis.lines
        assert list(ideal.get_ydata()) == list(table["ideal_speedup"])
        assert list(measured.get_xdata()) == [0, 10, 20]
        assert list(measured.get_ydata()) == list(table["speedup"])
        assert sorted(map(tuple, points(axis))) == sorted(zip(of_size["skip"], of_size["speedup"], strict=True))
        assert texts(axis) == [f"{table[column].iloc[-1]:.2f}×" for column in ("ideal_speedup", "speedup")]


def test_time_bars_are_medians_over_the_full_step_of_the_same_pair(collected: Path, small: Config) -> None:
    summary, pairs = read_table(collected, "step_speed"), read_table(collected, "step_speed_pairs")
    seconds = [column for column in pairs if column.endswith("_seconds")]
    slower = pairs.astype(dict.fromkeys(seconds, float))
    slower.loc[pairs["skip"] == 10, seconds] *= 1.5  # a drift between two jobs changes no bar
    drifted = drawn(collected, small, "time", step_speed_pairs=slower).axes
    for axis, other in zip(drawn(collected, small, "time").axes, drifted, strict=True):
        chosen = pairs[pairs["size"] == axis.get_title()]
        full = sum(chosen[f"baseline_{part}_seconds"] for part in PARTS)
        expected = []
        for part in PARTS:
            # The full model's are those of all pairs, whatever the skip of the other side.
            own = chosen[f"nested_{part}_seconds"] / full
            expected.append([(chosen[f"baseline_{part}_seconds"] / full).median()])
            expected[-1] += [own[chosen["skip"] == skip].median() for skip in (10, 20)]
        for heights in ([bar.get_height() for bar in of.patches] for of in (axis, other)):
            assert heights == pytest.approx(np.ravel(expected).tolist())
        rollout, whole = expected[0], np.sum(expected, axis=0)
        assert texts(axis)[::2] == [f"{100 * own / full:.0f} %" for own, full in zip(rollout, whole, strict=True)]
        speedups = summary[summary["size"] == axis.get_title()].set_index("skip")["speedup"]
        assert texts(axis)[1::2] == [f"{full.median():.2g} s", *(f"{speedups[skip]:.2f}×" for skip in (10, 20))]


# --- accuracy ---------------------------------------------------------------------------------------------------


def test_the_tradeoff_draws_paired_differences_at_the_exact_speed(collected: Path, small: Config) -> None:
    runs, speeds = read_table(collected, "runs"), read_table(collected, "throughput").set_index(["size", "skip"])
    figure = drawn(collected, small, "tradeoff")
    assert [axis.get_title() for axis in figure.axes[:2]] == ["rollout", "whole training step"]
    assert len(figure.axes) == 2 * 2  # sizes x speeds
    axis = figure.axes[0]
    sampled = runs[(runs["size"] == "small") & (runs["metric"] == "sampled") & (runs["dataset"] == "stories")]
    means = 100 * sampled.groupby(["correction", "skip"])["value"].mean()
    found = marks(axis)
    assert found[BASELINE.color] == [(1, 0, "passes")]
    for correction in small.corrections:
        mine = sorted(found[look_of(correction).color])
        assert [x for x, _, _ in mine] == [speeds.loc[("small", skip), "speedup"] for skip in (10, 20)]
        expected = [means[correction, skip] - means["base", 0] for skip in (10, 20)]
        assert [y for _, y, _ in mine] == pytest.approx(expected)
    # The speed's intervals stand above all others of their skip.
    across = [(left, right) for left, y, right, z in bars(axis, INK) if y == z]
    assert across == [tuple(speeds.loc[("small", skip), ["speedup_low", "speedup_high"]]) for skip in (10, 20)]
    assert {*texts(axis)} == {"skip 10 %", "skip 20 %", *small.corrections}
    heights = [text.get_position()[1] for text in axis.texts if text.get_text() in small.corrections]
    apart = np.diff(sorted(heights)) / np.ptp(axis.get_ylim())
    assert apart.min() > 0.07
    orders = {line.get_color(): line.get_zorder() for line in axis.lines if len(line.get_xdata()) > 2}
    assert max(orders, key=orders.__getitem__) == look_of("retrace").color  # over the others


def test_names_keep_apart_and_near_their_lines() -> None:
    assert list(spread([0.0, 5.0], 1.0)) == [0, 5]
    assert list(spread([1.0, 1.0, 1.0], 1.0)) == [0, 1, 2]


def test_a_boundless_interval_of_the_speed_does_not_hide_the_points(collected: Path, small: Config) -> None:
    speeds = read_table(collected, "throughput")
    speeds["speedup_high"] = 1e5
    low, high = drawn(collected, small, "tradeoff", throughput=speeds).axes[0].get_xlim()
    assert speeds["speedup"].max() < high < 1.5
    assert 0.5 < low < 1


def test_a_speed_that_was_not_measured_has_no_panel(collected: Path, small: Config) -> None:
    figure = drawn(collected, small, "tradeoff", throughput=read_table(collected, "throughput")[:0])
    assert [axis.get_title() for axis in figure.axes] == ["whole training step", ""]
    assert "Speed-up of the rollout: not run." in " ".join(note(figure).split())


def test_accuracy_draws_every_seed_mean_and_reference(collected: Path, small: Config) -> None:
    runs = read_table(collected, "runs")
    figure = drawn(collected, small, "accuracy")
    assert [axis.get_title() for axis in figure.axes[:3]] == ["heldout", "steps", "mean"]
    of = runs[(runs["size"] == "small") & (runs["metric"] == "sampled")]
    means = of.groupby(["correction", "skip", "seed"], dropna=False)["value"].mean().reset_index()
    for benchmark, axis in zip(("heldout", "steps", "mean"), figure.axes[:3], strict=True):
        chosen = means if benchmark == "mean" else of[of["benchmark"] == benchmark]  # the mean of each seed's
        tuned = chosen[chosen["correction"] != "pretrained"]
        assert sorted(points(axis)[:, 1]) == pytest.approx(sorted(100 * tuned["value"]))
        levels = [line.get_ydata()[0] for line in axis.lines if list(line.get_xdata()) == [0, 1]]
        assert levels == pytest.approx(
            [
                100 * chosen.loc[chosen["correction"] == "pretrained", "value"].item(),
                100 * tuned.loc[tuned["skip"] == 0, "value"].mean(),
            ]
        )


@pytest.mark.parametrize(
    ("margin", "verdict"), [(0.2, "passes"), (0.002, "undecided"), (1e-6, "fails"), (0.9, "not assessable")]
)
def test_marks_say_the_verdict(tmp_path: Path, margin: float, verdict: str) -> None:
    """Of parity: filled within the margin, hollow across its limit, a cross beyond, an upright line if the model before
    reinforcement is within it too. No other figure of accuracies judges: all its marks are filled.
    """
    config = with_margin(make_config(sizes=1, skips=(10,), steps=1, strategies=("uniform", "static")), margin)
    collect_results(tmp_path, config, Effects(cost=0.0 if verdict == "undecided" else 0.5))
    for name, expected in (("parity", verdict), ("strategies", "passes"), ("tradeoff", "passes")):
        figure = drawn(tmp_path, config, name)
        found = marks(figure.axes[0])
        assert {mark for of in found.items() if of[0] != BASELINE.color for *_, mark in of[1]} == {expected}, name
        legend = {text.get_text() for text in figure.legends[0].get_texts()}
        words = {"passes": "equivalent", "fails": "beyond the margin"}
        assert (words.get(verdict, verdict) in legend) == (name == "parity")


def test_parity_draws_every_seed(collected: Path, small: Config) -> None:
    assert len(points(drawn(collected, small, "parity").axes[0])) == 6 * 3


# --- training ---------------------------------------------------------------------------------------------------


def test_reward_lines_are_means_over_seeds(collected: Path, small: Config) -> None:
    training = read_table(collected, "training")
    figure = drawn(collected, small, "reward")
    assert len(figure.axes) == 2 * 2  # sizes x skips
    lines = {line.get_color(): line for line in figure.axes[0].lines}
    for look, correction, skip in [(look_of(name), name, 10) for name in small.corrections] + [(BASELINE, "base", 0)]:
        run = training.query(f"size == 'small' and skip == {skip} and correction == '{correction}'")
        assert list(lines[look.color].get_ydata()) == pytest.approx(list(run.groupby("step")["reward"].mean()))
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"baseline ReFT: target", *(f"{name}: behaviour policy" for name in small.corrections)}


@pytest.mark.parametrize(("steps", "window"), [(4, 1), (10, 1), (20, 3), (40, 5), (100, 11)])
def test_smoothing_window_is_odd_and_about_a_tenth(steps: int, window: int) -> None:
    assert smoothing_window(steps) == window


def test_off_policyness_draws_every_seed_and_the_mean(collected: Path, small: Config) -> None:
    training = read_table(collected, "training")
    kl, ess, ratio = drawn(collected, small, "off_policyness").axes[:3]
    assert (kl.get_yscale(), ess.get_yscale(), ratio.get_yscale()) == ("log", "linear", "log")
    for axis, column in ((kl, "kl_k3"), (ess, "ess")):
        assert len(points(axis)) == 3 * 3 * 2  # seeds, corrections, nested skips
        by_skip = training[training["size"] == "small"].groupby("skip")[column].mean()
        means = [y for of in marks(axis).values() for _, y, _ in of]
        assert sorted(means) == pytest.approx(sorted([*[by_skip[10]] * 3, *[by_skip[20]] * 3]))


# --- gradients --------------------------------------------------------------------------------------------------


def gradients(table: pd.DataFrame, config: Config) -> Any:
    return drawn(Path(), config, "gradients", gradients=table).axes


def test_gradients_draw_bias_variance_and_the_noise(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10, 20), gradients=("unit", "is_sequence"), steps=1)
    collect_results(tmp_path, config, Effects(bias={"unit": 0.5}, variance={"unit": 5.0}))
    table = read_table(tmp_path, "gradients")
    above, below = gradients(table, config)
    for name, verdict in (("unit", "fails"), ("is_sequence", "passes")):
        of_name, color = table[table["correction"] == name], look_of(name).color
        estimates = of_name["bias_debiased"].dropna()  # a negative square has no root, and no mark
        assert [mark[1:] for mark in marks(above).get(color, [])] == [(value, verdict) for value in estimates]
        assert [mark[1:] for mark in marks(below)[color]] == [(value, verdict) for value in of_name["variance_ratio"]]
        intervals = [(low, high) for _, low, _, high in bars(above, color)]
        assert intervals == list(of_name[["bias_low", "bias_high"]].itertuples(index=False, name=None))
    noise = [c for c in above.collections if list(to_rgba(NOISE)) in c.get_facecolor().tolist()]
    tops = [c.get_paths()[0].vertices[:, 1].max() for c in noise]
    assert tops == pytest.approx(list(table.drop_duplicates("skip")["noise_floor"]))
    assert (above.get_yscale(), below.get_yscale()) == ("symlog", "log")


def test_what_is_not_resolved_has_a_dotted_bar_and_no_mark(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10,), gradients=("unit", "is_sequence"), steps=1, batches=6)
    collect_results(tmp_path, config, Effects(bias={"unit": 9.0}, gradient_noise=1.0))
    table = read_table(tmp_path, "gradients")
    assert table["noise_floor"].min() > config.gradients.bias_margin
    above = gradients(table, config)[0]
    assert marks(above).keys() == {look_of("unit").color}
    assert len(bars(above, look_of("is_sequence").color)) == 1


def test_extreme_values_stay_readable(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10,), gradients=("unit", "is_sequence"), steps=1)
    collect_results(tmp_path, config, Effects(bias={"unit": 30.0}))
    table = read_table(tmp_path, "gradients")
    table.loc[0, ["variance_low", "variance_high"]] = [1e-3, 1e12]
    above, below = gradients(table, config)
    assert above.get_ylim()[0] < 0
    assert above.get_ylim()[1] > table["bias_high"].max()
    assert {0, 0.1, 1.0} <= set(above.get_yticks())
    low, high = below.get_ylim()
    shown = [tick for tick in below.get_yticks() if low <= tick <= high]
    assert 4 <= len(shown) <= 10
    assert high >= 1e12


def test_gradients_say_what_is_missing(tmp_path: Path, small: Config) -> None:
    write_results(tmp_path, small)
    (tmp_path / "gradients/small/skip20.json").unlink()
    collect(tmp_path, small)
    table = read_table(tmp_path, "gradients")
    table.loc[(table["size"] == "large") & (table["correction"] == "base"), ["bias_debiased", "bias_low"]] = np.nan
    assert [texts(axis) for axis in gradients(table, small)] == [
        ["not run"] * 2,
        ["not resolved"] * 2,
        ["not run"] * 2,
        [],
    ]


# --- layers -----------------------------------------------------------------------------------------------------


def test_strategies_draw_differences_and_off_policyness(tmp_path: Path) -> None:
    config = make_config(sizes=2, skips=(10,), steps=1, strategies=("uniform", "static"))
    collect_results(tmp_path, config, Effects(cost=0.2, strategy_cost={"static": 0.1}))
    table = read_table(tmp_path, "strategies")
    figure = drawn(tmp_path, config, "strategies")
    assert len(figure.axes) == 2 * 3
    difference, kl, ess = figure.axes[:3]
    (found,) = marks(difference).values()
    assert [(x, y) for x, y, _ in found] == [(pytest.approx(-2.0), 0), (pytest.approx(-12.0), 1)]
    for axis, metric in ((kl, "kl_k3"), (ess, "ess")):
        chosen = table[(table["size"] == "small") & (table["skip"] == 10) & (table["metric"] == metric)]
        means = chosen.groupby("strategy", sort=False)["value"].mean()
        (found,) = marks(axis).values()
        assert [x for x, *_ in found] == pytest.approx(list(means))
        assert len(points(axis)) == 2 * 3
    low, high = ess.get_xlim()  # zoomed to what was measured
    assert high - low < 0.5
    assert [label.get_text() for label in difference.get_yticklabels()] == ["uniform", "static"]


def test_a_strategy_that_was_not_run_says_so(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10,), steps=1, strategies=("uniform", "static"))
    write_results(tmp_path, config)
    for seed in config.seeds:
        (tmp_path / f"evaluations/small/stories/retrace/skip10-static/seed{seed}/heldout.json").unlink()
        (tmp_path / f"runs/small/stories/retrace/skip10-static/seed{seed}/metrics.jsonl").unlink()
    collect(tmp_path, config)
    assert [texts(axis) for axis in drawn(tmp_path, config, "strategies").axes] == [["not run"]] * 3


def test_layers_are_drawn_for_every_skip_and_strategy(tmp_path: Path) -> None:
    table = pd.DataFrame({"step": [2, 1, 3], "skipped_layers": ["1 3", "2", ""]})
    assert left_out(table, 4).astype(int).tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    config = make_config(sizes=2, skips=(10, 20), steps=4, strategies=("uniform", "static"))
    write_results(tmp_path, config)
    (tmp_path / "runs/large/stories/base/skip10/seed1/metrics.jsonl").unlink()
    collect(tmp_path, config)
    figure = drawn(tmp_path, config, "layers")
    assert [axis.get_title() for axis in figure.axes[:3]] == ["skip 10 %", "skip 20 %", "skip 20 %, static"]
    for axis, skipped in zip(figure.axes[:3], (1, 2, 2), strict=True):
        (image,) = (child for child in axis.get_children() if isinstance(child, AxesImage))
        # The made-up runs leave out the first layers after the border.
        assert np.asarray(image.get_array()).astype(int).tolist() == [[int(1 <= n <= skipped)] * 4 for n in range(10)]
        assert texts(axis) == ["100 %" if 1 <= n <= skipped else "0 %" for n in range(10)]
    assert texts(figure.axes[3]) == ["not run"]


# --- all --------------------------------------------------------------------------------------------------------


def note(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


# That of gradients by completion is made of records of its own, in its own test.
WITH_TABLES = [name for name, entry in FIGURES.items() if entry.tables and name != "completion_gradients"]


@pytest.mark.parametrize("name", WITH_TABLES)
def test_every_figure_says_of_how_many_units_it_is(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    asked = {"strategies": ("uniform", "static"), "nestability": True, "precisions": ("float32",)}
    config = make_config(sizes=1, skips=(10,), steps=2, **asked)
    root = tmp_path_factory.mktemp(name)
    collect_results(root, config, Effects(noise=0.02))
    units = {"throughput": "9 pairs", "time": "9 pairs", "gradients": "16 batches", "nestability": "4 of 2 problems"}
    units |= {"behaviours": "4 batches", "nestability_by_size": "4 of 2 problems"}
    assert re.search(units.get(name, "3 seeds|seed 1"), note(drawn(root, config, name)))


@pytest.mark.parametrize("nestability", [False, True])
def test_nothing_run_is_said_in_every_panel(tmp_path: Path, nestability: bool) -> None:
    config = make_config(nestability=nestability)
    collect(tmp_path, config)
    for name in WITH_TABLES:
        assert all("not run" in texts(axis) for axis in drawn(tmp_path, config, name).axes), name


@pytest.mark.parametrize("datasets", [1, 2])
def test_panels_follow_the_data_sets(tmp_path: Path, datasets: int) -> None:
    config = make_config(datasets=datasets, benchmarks=1)
    collect(tmp_path, config)
    assert len(drawn(tmp_path, config, "accuracy").axes) == 2 * datasets


def test_every_correction_looks_its_own() -> None:
    looks = [*map(look_of, CORRECTIONS), BASELINE]
    assert len({look.color for look in looks}) == len(looks)
    assert len({look_of(name).marker for name in CORRECTIONS}) == len(CORRECTIONS)


def test_files_are_the_same_twice(collected: Path, small: Config, tmp_path: Path) -> None:
    before, first = dict(mpl.rcParams), dict[str, bytes]()
    for _ in range(2):
        draw("throughput", collected, small)
        files = {kind: (collected / f"figures/throughput.{kind}").read_bytes() for kind in ("png", "svg", "pdf")}
        assert first in ({}, files)
        first = files
    assert dict(mpl.rcParams) == before  # the style does not leak
    assert set(RC) <= set(before)


def test_an_svg_has_no_background_and_is_read_on_dark_pages(collected: Path, small: Config) -> None:
    draw("method", collected, small)
    svg = (collected / "figures/method.svg").read_text(encoding="utf-8")
    (rules,) = re.findall(r"<style>@media \(prefers-color-scheme:dark\)\{(.*)\}</style>", svg)
    changed = dict(re.findall(r'\[style\*="fill: (#\w+)"\]\{fill:(#\w+) !important\}', rules))
    assert changed == {light.lower(): dark for light, dark in DARK.items()}
    background = svg.partition('<g id="patch_1">')[2].partition("</g>")[0]
    assert "fill: none" in background
    assert f"fill: {INK.lower()}" in svg
