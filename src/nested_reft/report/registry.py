"""The registry of the report's tables, figures and pages: what each is made from, by which function, its caption.

To add a figure, write its function and its entry here. Imports none of the plotting libraries, so the workflow can read
it quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

# Of an evaluation's answers: the most likely one, and those drawn at random.
METRICS = ("greedy", "sampled")
# CSV, one fact per row.
TIDY_TABLES = (
    *("runs", "gains", "training", "throughput", "throughput_pairs", "step_speed", "step_speed_pairs", "gradients"),
    *("strategies", "nestability_batches", "exact", "samples", "layers", "manifests"),
)
# For people; these and the claims are written in all formats. The report shows the HTML.
TABLE_KINDS = ("csv", "md", "tex", "html")
FIGURE_KINDS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Entry:
    """A table for people, figure or page: `function` (of a module of this package) makes it from the tidy `tables`;
    `category` sorts it in the report.
    """

    function: str  # module:function
    category: str
    tables: tuple[str, ...]
    caption: str = ""

    @property
    def module(self) -> str:
        """The full name of the function's module, on whose imports the output depends."""
        return f"nested_reft.report.{self.function.partition(':')[0]}"

    def load(self) -> Callable[..., Any]:
        """The function: (*tables, config) -> (table, Page) of a table for people, -> Figure of a figure; (root, config)
        -> None of a page.
        """
        function: Callable[..., Any] = getattr(import_module(self.module), self.function.partition(":")[2])
        return function


# Categories of the report, which shows them in alphabetical order.
CLAIMS, SPEED, ACCURACY, TRAINING = "1 Claims", "2 Speed", "3 Accuracy", "4 Training"
OFF_POLICY, GRADIENTS, LAYERS = "5 Off-policyness", "6 Gradients", "7 Layer choice"
TABLES, RUNS = "8 Tables", "9 Runs"

# Written in all formats; their notes depend on the configuration.
PRESENTATION_TABLES: dict[str, Entry] = {
    "accuracy_sampled": Entry("tables.accuracy:accuracy_sampled", TABLES, ("runs",)),
    "accuracy_greedy": Entry("tables.accuracy:accuracy_greedy", TABLES, ("runs",)),
    "gain_by_benchmark": Entry("tables.accuracy:gain_by_benchmark_table", TABLES, ("gains",)),
    "speedup": Entry("tables.speed:speedup_table", TABLES, ("throughput", "step_speed")),
    "equivalence": Entry("tables.accuracy:equivalence_table", TABLES, ("runs",)),
    "gradient_bias": Entry("tables.gradients:gradient_bias_table", TABLES, ("gradients",)),
    "layer_choice": Entry("tables.layer_choice:layer_choice_table", TABLES, ("strategies",)),
    "nestability": Entry("tables.nestability:nestability_table", TABLES, ("nestability_batches", "throughput")),
    "exact_bias": Entry("tables.gradients:exact_bias_table", TABLES, ("exact",)),
}

FIGURES: dict[str, Entry] = {
    "throughput": Entry(
        "figures.speed:throughput",
        SPEED,
        ("throughput", "throughput_pairs"),
        "Rollout speed-up (tokens/s of the nested over the full model) against the share of layers skipped. Faint "
        "points: interleaved pairs, timed alone on the machine. Line: median; bars: 95 % bootstrap interval over "
        "pairs. Dashed: the ideal, the cost of all layers over that of the layers kept, embedding and LM head "
        "counted. Skip 0 pairs the full model with itself and shows the noise.",
    ),
    "time": Entry(
        "figures.speed:time",
        SPEED,
        ("step_speed", "step_speed_pairs"),
        "Where a training step's time goes, timed alone on the machine, steps with nested rollouts and with those of "
        "the full model in turn, on equal work: each part over the full model's step of the same pair, median over "
        "pairs (skip 0: over those of all skips). In each bar: the rollout's share, which is all that skipping layers "
        "can save. Above the first bar: its median in seconds. Above each other bar: the "
        "whole step's speed-up, the median over pairs.",
    ),
    "tradeoff": Entry(
        "figures.tradeoff:tradeoff",
        ACCURACY,
        ("runs", "throughput", "step_speed"),
        "What speed costs: accuracy on held-out problems (headline metric, mean over benchmarks) against the speed-up "
        "over the full model, of rollouts (left) and of whole training steps (right), both timed alone on the machine. "
        "Further right is faster, within the shaded band is as accurate as baseline ReFT, by the "
        "parity margin. Small points: seeds; markers: mean over seeds, those of one skip side by side; vertical bars: "
        "95 % interval over seeds and problems (Wilson's score interval). Bars below: each skip's speed-up with its "
        "95 % interval (bootstrap over pairs), cut off if far wider "
        "than the panel. Models are compared on identical problems: the parity figure says what differs.",
    ),
    "reward": Entry(
        "figures.learning:reward",
        TRAINING,
        ("training",),
        "Reward of the training rollouts, moving mean over about a tenth of the steps. Line: mean over seeds; band: "
        "lowest to highest seed. The nested runs' rewards are the behaviour model's, not the target's.",
    ),
    "reward_time": Entry(
        "figures.learning:reward_time",
        TRAINING,
        ("training",),
        "The same rewards against the seconds that a run has trained: rollout, reward and update, without start-up "
        "and evaluation. Each seed is read at the same moments, up to the last one that all have reached. A run that "
        "ends further left took less time for its steps. Training jobs share the machine, so these times are noisy.",
    ),
    "off_policyness": Entry(
        "figures.off_policyness:off_policyness",
        OFF_POLICY,
        ("training",),
        "How far the behaviour policy b is from the target π: k3 estimate of the KL divergence, effective sample size "
        "(1 is on-policy), and the token ratios π/b before clipping (marker: median; thick: 5 to 95 %; thin: 1 to "
        "99 %). Means over a run's steps; faint points: seeds; markers: mean over seeds.",
    ),
    "accuracy": Entry(
        "figures.accuracy:accuracy",
        ACCURACY,
        ("runs",),
        "Accuracy on held-out problems in the headline metric. Small points: seeds; markers: mean over seeds; bars: "
        "95 % interval over seeds and problems (Wilson's score interval; the squares of the half-widths of the two are "
        "added). Models are compared on identical problems: the parity figure, not these bars, says what differs. "
        "Dashed line: baseline ReFT (skip 0); dotted: the pre-trained model; dash-dotted: the warmed-up one.",
    ),
    "parity": Entry(
        "figures.accuracy:parity_plot",
        ACCURACY,
        ("runs",),
        "Nested-ReFT minus baseline ReFT, mean accuracy over benchmarks in the headline metric, paired by seed on "
        "identical problems. Small points: seeds. Bars: 95 % Student-t interval over seeds (artanh scale); the "
        "problems do not vary. Filled: equivalent, that is the whole interval lies within the shaded margin (two "
        "one-sided tests at 2.5 % each); hollow: not shown to be.",
    ),
    "gradients": Entry(
        "figures.gradients:gradients",
        GRADIENTS,
        ("gradients",),
        "Bias and variance of the corrected gradient estimates against the share of layers skipped. Above: norm of the "
        "difference between expected gradients, over the on-policy one's, with the noise taken out; grey: a second "
        "on-policy estimate, which has no bias, sampled with its own random numbers (the corrected ones share those of "
        "the first on-policy estimate, which makes them less noisy); grey dots: how far the two are apart with the "
        "noise in; shaded: what counts as unbiased. Below: "
        "variance of a batch's estimate over the on-policy one's; dashed: the limit. Bars: 95 % jackknife interval "
        "over batches. Filled: the whole interval lies within the margin or limit; hollow: it does not. A marker at "
        "the upper end of its bar: there is no estimate. Pale and dotted: it is not resolved either, as the interval "
        "does not decide and the noise is above the margin.",
    ),
    "strategies": Entry(
        "figures.strategies:strategies",
        LAYERS,
        ("strategies",),
        "Ways to choose the skipped layers, at one skip and correction: mean accuracy over benchmarks in the headline "
        "metric minus baseline ReFT's, paired by seed; k3 estimate of the KL divergence; effective sample size (1 is "
        "on-policy), both means over a run's steps. Faint points: seeds; bars: 95 % Student-t interval over seeds, on "
        "the artanh, log and logit scale, which keep it within what is possible; shaded: the parity margin. Filled: "
        "the whole interval lies within it (two one-sided tests at 2.5 % each).",
    ),
    "nestability": Entry(
        "figures.nestability:nestability",
        LAYERS,
        ("nestability_batches", "throughput"),
        "How nestable each model is before reinforcement, against the share of layers skipped, for ways to choose the "
        "layers: KL divergence of the nested rollouts from the model (k1, the mean over the sampled tokens of log b - "
        "log π) and effective sample size of their tokens (1 is on-policy). Below each skip: the rollout's speed-up, "
        "timed alone. Faint points: batches, each with its own draw where layers are drawn; markers: mean over "
        "batches; bars: its 95 % Student-t interval, on the log and logit scale.",
    ),
    "layers": Entry(
        "figures.layers:layers",
        LAYERS,
        ("layers",),
        "Which layers (counted from 0, the first) the rollouts left out at each training step: dark, left out; light, "
        "kept. Beside each layer: the share of steps that left it out. One run per panel, of the first seed and data "
        "set; a random draw depends only on seed and step, so runs of all corrections leave out the same layers. "
        "The ends are never left out.",
    ),
}

PAGES: dict[str, Entry] = {
    "samples": Entry(
        "pages.runs:write_samples",
        RUNS,
        ("samples",),
        "What the models write: the first problems of each benchmark with the exact prompt, and every model's most "
        "likely and first sampled completion, marked right or wrong as the verifier graded it.",
    ),
    "environment": Entry(
        "pages.runs:write_environment",
        RUNS,
        ("manifests",),
        "What the runs were made with: commit, versions, machine; one column per variant. Then every run with its "
        "seconds and alarms.",
    ),
    "settings": Entry("pages.runs:write_settings", RUNS, (), "Every setting of the experiment, defaults too."),
}
