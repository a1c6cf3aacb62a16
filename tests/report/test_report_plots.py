"""The figures of the trade-off, of learning over time and of layers left out: what is drawn is what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage
from synthetic import Effects, collect_results, make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.layers import layers, left_out
from nested_reft.report.figures.learning import reward_time, rewards_by_time
from nested_reft.report.figures.style import BASELINE, look_of
from nested_reft.report.figures.tradeoff import tradeoff
from nested_reft.report.tidy import read_table


def training(seconds: dict[int, list[float]], rewards: dict[int, list[float]]) -> pd.DataFrame:
    """One run's rows for each seed; a third of a step's seconds in each of its parts."""
    return pd.DataFrame(
        [
            {"seed": seed, "step": step, "reward": rewards[seed][step - 1], "rollout_seconds": second / 3,
             "reward_seconds": second / 3, "update_seconds": second / 3}
            for seed, each in seconds.items()
            for step, second in enumerate(each, start=1)
        ]
    )  # fmt: skip


def draw_tradeoff(root: Path, config: Config):
    return tradeoff(*(read_table(root, name) for name in ("runs", "throughput", "step_speed")), config)


def test_the_tradeoff_draws_mean_accuracy_at_the_measured_speed(collected: Path, small: Config) -> None:
    runs, speeds = read_table(collected, "runs"), read_table(collected, "throughput")
    figure = draw_tradeoff(collected, small)
    assert len(figure.axes) == 2 * 2  # sizes x (rollout, whole step)
    sampled = runs[(runs["size"] == "small") & (runs["metric"] == "sampled") & (runs["dataset"] == "stories")]
    means = 100 * sampled.groupby(["correction", "skip"])["value"].mean()
    speed = speeds[speeds["size"] == "small"].set_index("skip")["speedup"]
    rollout = figure.axes[0]
    lines = {line.get_color(): line for line in rollout.lines if len(line.get_xdata()) == 3}
    for correction in small.corrections:
        line = lines[look_of(correction).color]
        assert list(line.get_ydata()) == pytest.approx(
            [means["base", 0], means[correction, 10], means[correction, 20]]
        )  # from the baseline on
        # Side by side around the speed-up of their skip, and nearer to it than to another's.
        assert list(line.get_xdata()) == pytest.approx([1.0, speed[10], speed[20]], abs=0.01)
    assert np.mean([line.get_xdata()[1] for line in lines.values()]) == pytest.approx(speed[10])
    seeds = [c for c in rollout.collections if isinstance(c, PathCollection)]
    assert sum(len(c.get_offsets()) for c in seeds) == 3 * (1 + 3 * 2)
    assert [text.get_text() for text in rollout.texts] == ["skip 10 %", "skip 20 %"]
    assert rollout.get_ylim() == figure.axes[1].get_ylim()  # one accuracy is at one height


def test_the_tradeoff_shows_the_intervals_of_the_speed(collected: Path, small: Config) -> None:
    table = read_table(collected, "throughput").set_index(["size", "skip"])
    axis = draw_tradeoff(collected, small).axes[0]
    bars = [line for line in axis.lines if line.get_color() == BASELINE.color and len(line.get_xdata()) == 2]
    expected = [list(table.loc[("small", skip), ["speedup_low", "speedup_high"]]) for skip in (10, 20)]
    assert [list(bar.get_xdata()) for bar in bars] == [pytest.approx(interval) for interval in expected]


def test_the_room_below_the_points_has_no_accuracies(tmp_path: Path) -> None:
    config = make_config(sizes=1, steps=2, seeds=(1, 2))
    collect_results(tmp_path, config, Effects(noise=0.02, pretrained=0.05, learned=0.05))
    axis = draw_tradeoff(tmp_path, config).axes[0]
    assert axis.get_ylim()[0] < -1
    assert min(axis.get_yticks()) == 0


def test_a_boundless_interval_does_not_hide_the_points(collected: Path, small: Config) -> None:
    speeds = read_table(collected, "throughput")
    speeds["speedup_high"] = 1e5
    axis = tradeoff(read_table(collected, "runs"), speeds, read_table(collected, "step_speed"), small).axes[0]
    low, high = axis.get_xlim()
    assert speeds["speedup"].max() < high < 1.5
    assert low < 1


def test_a_size_without_throughput_still_shows_its_steps(tmp_path: Path) -> None:
    config = make_config(sizes=1, steps=2)
    write_results(tmp_path, config, Effects(noise=0.02))
    for path in (tmp_path / "throughput").rglob("*.json"):
        path.unlink()
    collect(tmp_path, config)
    rollout, step = draw_tradeoff(tmp_path, config).axes
    assert [text.get_text() for text in rollout.texts] == ["not run"]
    assert [text.get_text() for text in step.texts] == ["skip 10 %", "skip 20 %"]


def test_rewards_are_read_at_moments_that_all_seeds_have_reached() -> None:
    # Seed 1 ends its steps after 3, 6, 9 seconds, seed 2 after 6, 9, 12.
    runs = training({1: [3, 3, 3], 2: [6, 3, 3]}, {1: [0.0, 0.3, 0.6], 2: [0.2, 0.5, 0.8]})
    curves = rewards_by_time(runs, 1)
    assert (curves.index[0], curves.index[-1]) == pytest.approx((6, 9))
    assert list(curves.iloc[0]) == pytest.approx([0.3, 0.2])
    assert list(curves.iloc[-1]) == pytest.approx([0.6, 0.5])
    # Between the ends of two steps, in proportion to the time.
    middle = curves.loc[7.5] if 7.5 in curves.index else curves.iloc[(np.abs(curves.index - 7.5)).argmin()]
    assert list(middle) == pytest.approx([0.45, 0.35], abs=0.01)


def test_seeds_without_a_common_moment_give_no_curve() -> None:
    assert rewards_by_time(training({1: [1, 1], 2: [9, 1]}, {1: [0, 1], 2: [0, 1]}), 1).empty


def test_faster_steps_end_further_left(tmp_path: Path) -> None:
    config = make_config(sizes=1, skips=(10, 20), steps=10)
    collect_results(tmp_path, config, Effects(rollout_gain=5.0))
    axis = reward_time(read_table(tmp_path, "training"), config).axes[1]
    ends = {line.get_color(): line.get_xdata()[-1] for line in axis.lines}
    assert ends[BASELINE.color] == pytest.approx(10 * (0.5 + 0.05 + 1.1))
    assert ends[look_of("unit").color] == pytest.approx(10 * (0.5 / 2 + 0.05 + 1.1))


def test_layers_left_out_step_by_step() -> None:
    table = pd.DataFrame({"step": [2, 1, 3], "skipped_layers": ["1 3", "2", ""]})
    expected = [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert left_out(table, 4).astype(int).tolist() == expected


def test_layers_are_drawn_for_every_skip_and_strategy(tmp_path: Path) -> None:
    config = make_config(sizes=2, skips=(10, 20), steps=4, strategies=("uniform", "static"))
    write_results(tmp_path, config)
    (tmp_path / "runs/large/stories/base/skip10/seed1/metrics.jsonl").unlink()
    collect(tmp_path, config)
    table = read_table(tmp_path, "layers")
    figure = layers(table, config)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["skip 10 %", "skip 20 %", "skip 20 %, static"]
    for axis, skipped in zip(figure.axes[:3], (1, 2, 2), strict=True):
        (image,) = (child for child in axis.get_children() if isinstance(child, AxesImage))
        # The made-up runs leave out the first layers after the border.
        assert np.asarray(image.get_array()).astype(int).tolist() == [[int(1 <= n <= skipped)] * 4 for n in range(10)]
        assert [text.get_text() for text in axis.texts] == ["100 %" if 1 <= n <= skipped else "0 %" for n in range(10)]
    assert [text.get_text() for text in figure.axes[3].texts] == ["not run"]
