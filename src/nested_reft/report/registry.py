"""The registry of the report's tables, figures and pages: what each is made from, by which function, its caption.

To add a figure, write its function and its entry here. Imports none of the plotting libraries, so the workflow can read
it quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from nested_reft.config.experiment import Config, Part, measured_models

# Of an evaluation's answers: the most likely one, and those drawn at random.
METRICS = ("greedy", "sampled")
# CSV, one fact per row.
TIDY_TABLES = (
    *("runs", "gains", "training", "throughput", "throughput_pairs", "step_speed", "step_speed_pairs", "gradients"),
    *("completion_gradients", "strategies", "nestability_batches", "behaviour_batches", "exact", "samples", "layers"),
    "manifests",
)
# Those that the claims are judged by, in the order of `claim_rows`.
CLAIM_TABLES = ("runs", "step_speed", "throughput", "gradients", "completion_gradients", "behaviour_batches")
# For people; these and the claims are written in all formats. The report shows the HTML.
TABLE_KINDS = ("csv", "md", "tex", "html")
FIGURE_KINDS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Entry:
    """A table for people, figure or page: `function` (of a module of this package) makes it from the tidy `tables`;
    `category` sorts it in the report, where it is if it is `asked` for.
    """

    function: str  # module:function
    category: str
    tables: tuple[str, ...]
    caption: str = ""
    asked: Callable[[Config], bool] = lambda config: True

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


def asked(entries: Mapping[str, Entry], config: Config) -> list[str]:
    """The names of those that a configuration asks for: all but those that could only say "not run"."""
    return [name for name, entry in entries.items() if entry.asked(config)]


def _has(part: Part) -> Callable[[Config], bool]:
    return lambda config: part in config.parts


_trains = _has("training")


def _compares_strategies(config: Config) -> bool:
    return _trains(config) and len(config.layer_choice.strategies) > 1


def _measures_nestability(config: Config) -> bool:
    return bool(measured_models(config))


def _times_behaviours(config: Config) -> bool:
    return config.nestability is not None and bool(measured_models(config) and config.nestability.precisions)


def _sums_over_completions(config: Config) -> bool:
    return "gradients" in config.parts and config.gradients.by_completion is not None


# Categories of the report, which shows them in alphabetical order.
METHOD, CLAIMS, SPEED, ACCURACY, TRAINING = "0 Method", "1 Claims", "2 Speed", "3 Accuracy", "4 Training"
OFF_POLICY, GRADIENTS, LAYERS = "5 Off-policyness", "6 Gradients", "7 Layer choice"
TABLES, RUNS = "8 Tables", "9 Runs"

# Written in all formats; their notes depend on the configuration.
PRESENTATION_TABLES: dict[str, Entry] = {
    "accuracy_sampled": Entry("tables.accuracy:accuracy_sampled", TABLES, ("runs",), asked=_trains),
    "accuracy_greedy": Entry("tables.accuracy:accuracy_greedy", TABLES, ("runs",), asked=_trains),
    "gain_by_benchmark": Entry("tables.accuracy:gain_by_benchmark_table", TABLES, ("gains",), asked=_trains),
    "speedup": Entry(
        "tables.speed:speedup_table",
        TABLES,
        ("throughput", "step_speed"),
        asked=lambda config: bool({"throughput", "step_speed"} & {*config.parts}),
    ),
    "equivalence": Entry("tables.accuracy:equivalence_table", TABLES, ("runs",), asked=_trains),
    "gradient_bias": Entry("tables.gradients:gradient_bias_table", TABLES, ("gradients",), asked=_has("gradients")),
    "completion_bias": Entry(
        "tables.completion_gradients:completion_gradients_table",
        TABLES,
        ("completion_gradients",),
        asked=_sums_over_completions,
    ),
    "layer_choice": Entry(
        "tables.layer_choice:layer_choice_table", TABLES, ("strategies",), asked=_compares_strategies
    ),
    "nestability": Entry(
        "tables.nestability:nestability_table",
        TABLES,
        ("nestability_batches", "throughput"),
        asked=_measures_nestability,
    ),
    "behaviours": Entry("tables.behaviours:behaviours_table", TABLES, ("behaviour_batches",), asked=_times_behaviours),
    "exact_bias": Entry("tables.gradients:exact_bias_table", TABLES, ("exact",)),
}

# Their marks, intervals and numbers of seeds are said in the pictures; the captions say what to look for.
FIGURES: dict[str, Entry] = {
    "method": Entry(
        "figures.method:method",
        METHOD,
        (),
        "The method: a subset of the target's layers writes the rollouts, all of its layers learn from them. What b "
        "wrote is off-policy for π, which the loss corrects.",
    ),
    "throughput": Entry(
        "figures.speed:throughput",
        SPEED,
        ("throughput", "throughput_pairs"),
        "Rollout speed-up (tokens/s of the nested over the full model) against the share of layers skipped, and the "
        "ideal.",
        _has("throughput"),
    ),
    "time": Entry(
        "figures.speed:time",
        SPEED,
        ("step_speed", "step_speed_pairs"),
        "Where a training step's time goes, with nested rollouts and with those of the full model, on equal work: each "
        "part over the full model's step of the same pair (skip 0: over the pairs of all skips).",
        _has("step_speed"),
    ),
    "tradeoff": Entry(
        "figures.tradeoff:tradeoff",
        ACCURACY,
        ("runs", "throughput", "step_speed"),
        "What speed costs: accuracy on held-out problems (headline metric, mean over benchmarks) minus baseline "
        "ReFT's, against the speed-up of rollouts (left) and of whole training steps (right). Further right is "
        "faster; in the shaded band the mean is within the margin of parity, which is judged benchmark by "
        "benchmark.",
        _trains,
    ),
    "reward": Entry(
        "figures.learning:reward",
        TRAINING,
        ("training",),
        "Reward of the training rollouts. That of nested runs is the behaviour policy's, not the target's: what the "
        "target has learned is in the figures of accuracy.",
        _trains,
    ),
    "off_policyness": Entry(
        "figures.off_policyness:off_policyness",
        OFF_POLICY,
        ("training",),
        "How far the behaviour policy b is from the target π: k3 estimate of the KL divergence, effective sample size "
        "(1 is on-policy), and the token ratios π/b before clipping.",
        _trains,
    ),
    "accuracy": Entry(
        "figures.accuracy:accuracy",
        ACCURACY,
        ("runs",),
        "Accuracy on held-out problems in the headline metric, with Wilson's score interval (the squares of its "
        "half-widths over seeds and over problems are added).",
        _trains,
    ),
    "parity": Entry(
        "figures.accuracy:parity_plot",
        ACCURACY,
        ("runs",),
        "Nested-ReFT minus baseline ReFT, accuracy on each benchmark in the headline metric. Equivalent: the whole "
        "interval lies within the shaded margin (two one-sided tests at 2.5 % each). The problems do not vary.",
        _trains,
    ),
    "gradients": Entry(
        "figures.gradients:gradients",
        GRADIENTS,
        ("gradients",),
        "Bias (above) and variance (below) of the corrected gradient estimates against the share of layers skipped, "
        "over the on-policy ones. The corrected estimates share the random numbers of the on-policy one, which makes "
        "them less noisy than two on-policy ones are.",
        _has("gradients"),
    ),
    "completion_gradients": Entry(
        "figures.completion_gradients:completion_gradients",
        GRADIENTS,
        ("completion_gradients",),
        "Bias of the corrected gradient of each problem, split into scale and direction: how long it is along the "
        "on-policy gradient, and how far it is turned away from it. A bias of scale alone is on the axis; a learning "
        "rate makes up for it.",
        _sums_over_completions,
    ),
    "strategies": Entry(
        "figures.strategies:strategies",
        LAYERS,
        ("strategies",),
        "Layer-selection strategies, at one skip and correction: mean accuracy over benchmarks minus baseline ReFT's, "
        "paired by seed; k3 estimate of the KL divergence; effective sample size. Intervals on the artanh, log and "
        "logit scale, which keep them within what is possible.",
        _compares_strategies,
    ),
    "nestability": Entry(
        "figures.nestability:nestability",
        LAYERS,
        ("nestability_batches", "throughput"),
        "How nestable each model is before reinforcement, by layer-selection strategy: KL divergence of the nested "
        "rollouts from the model (k1, the mean over the sampled tokens of log b - log π) and effective sample size of "
        "their tokens (1 is on-policy). Intervals on the log and logit scale.",
        _measures_nestability,
    ),
    "nestability_by_size": Entry(
        "figures.nestability:nestability_by_size",
        LAYERS,
        ("nestability_batches",),
        "How many layers models of different sizes can bear to lose: effective sample size of the nested rollouts' "
        "tokens (1 is on-policy) against the share of layers that they leave out, before reinforcement.",
        lambda config: _measures_nestability(config) and len(config.sizes) > 1,
    ),
    "behaviours": Entry(
        "figures.behaviours:behaviours",
        LAYERS,
        ("behaviour_batches",),
        "What behaviour policies are worth, with fewer layers, in lower precision, or both: effective sample size of a "
        "rollout's tokens against its speed-up. Policies on one grey line bring equal effective tokens per second.",
        _times_behaviours,
    ),
    "layers": Entry(
        "figures.layers:layers",
        LAYERS,
        ("layers",),
        "Which layers the rollouts left out at each training step, in one run per panel. The ends are never left out.",
        _trains,
    ),
}

PAGES: dict[str, Entry] = {
    "samples": Entry(
        "pages.runs:write_samples",
        RUNS,
        ("samples",),
        "What the models write: the first problems of each benchmark with the exact prompt, and every model's most "
        "likely and first sampled completion, marked right or wrong as the verifier graded it.",
        _trains,
    ),
    "environment": Entry(
        "pages.runs:write_environment",
        RUNS,
        ("manifests",),
        "What the runs were made with: commit, versions, machine; one column per variant. Then every run with its "
        "seconds and alarms.",
        _trains,
    ),
    "settings": Entry("pages.runs:write_settings", RUNS, (), "Every setting of the experiment, defaults too."),
}
