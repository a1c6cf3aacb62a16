"""The figures of the report by name: what draws each, from which tables, and what its caption says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nested_reft.config import Config
from nested_reft.report.collect import read_table
from nested_reft.report.plots_accuracy import accuracy, parity_plot
from nested_reft.report.plots_speed import throughput, time
from nested_reft.report.plots_training import off_policyness, reward
from nested_reft.report.style import DPI, RC


@dataclass(frozen=True)
class FigureSpec:
    """`function` takes the tables named in `tables`, in that order, and the config."""

    function: Callable[..., Figure]
    tables: tuple[str, ...]
    caption: str


FIGURES: dict[str, FigureSpec] = {
    "throughput": FigureSpec(
        throughput,
        ("throughput", "throughput_pairs"),
        "Rollout speed-up (tokens/s of the nested over the full model) against the share of layers skipped. Faint "
        "points: interleaved pairs, timed alone on the machine. Line: median; bars: 95 % bootstrap interval over "
        "pairs. Dashed: the ideal, the cost of all layers over that of the layers kept, embedding and LM head "
        "counted. Skip 0 pairs the full model with itself and shows the noise.",
    ),
    "time": FigureSpec(
        time,
        ("training",),
        "Where a training step's time goes: mean seconds over steps, seeds and corrections. Above each bar: "
        "end-to-end tokens/s over the baseline's (geometric mean over seeds). Training jobs share the machine, so "
        "these times are noisy; the throughput figure is the one measured alone.",
    ),
    "reward": FigureSpec(
        reward,
        ("training",),
        "Reward of the training rollouts, moving mean over about a tenth of the steps. Line: mean over seeds; band: "
        "from the lowest to the highest seed. The nested runs' rewards are the behaviour model's, not the target's.",
    ),
    "off_policyness": FigureSpec(
        off_policyness,
        ("training",),
        "How far the behaviour policy b is from the target π: k3 estimate of the KL divergence, effective sample size "
        "(1 is on-policy), and the token ratios π/b before clipping (marker: median; thick: 5 to 95 %; thin: 1 to "
        "99 %). Means over a run's steps; faint points: seeds; markers: mean over seeds.",
    ),
    "accuracy": FigureSpec(
        accuracy,
        ("runs",),
        "Accuracy on held-out problems in the headline metric. Small points: seeds; markers: mean over seeds; bars: "
        "95 % Student-t interval over seeds. Dashed line: baseline ReFT (skip 0); dotted: the pre-trained model.",
    ),
    "parity": FigureSpec(
        parity_plot,
        ("runs",),
        "Nested-ReFT minus baseline ReFT, mean accuracy over benchmarks in the headline metric, paired by seed on "
        "identical problems. Small points: seeds. Bars: 95 % Student-t interval over seeds. Filled: "
        "equivalent, that is the whole interval lies within the shaded margin; hollow: not shown to be.",
    ),
}


def draw(name: str, root: Path, config: Config) -> None:
    """Write `figures/{name}.png` and `.svg` under `root` from its tables; KeyError for an unknown name."""
    spec = FIGURES[name]
    with mpl.rc_context(RC):
        figure = spec.function(*(read_table(root, table) for table in spec.tables), config)
        save_figure(figure, root / "figures" / name)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `stem`.png and `stem`.svg; no date inside, so that the same figure is the same file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(stem.with_suffix(".png"), dpi=DPI)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
