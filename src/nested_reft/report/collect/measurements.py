"""The tidy tables of what is measured apart from training: speed, gradient estimates, nestability, exact biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, Part, layer_choices, measured_models, nested_skips
from nested_reft.config.records.completion_gradients import CompletionGradientRecord
from nested_reft.config.records.exact import ExactRecord, ExactRow
from nested_reft.config.records.gradients import GradientRecord
from nested_reft.config.records.nestability import BehaviourRow, NestabilityRecord, NestabilityRow
from nested_reft.config.records.record import Record, check_owner, read_record
from nested_reft.config.records.step_speed import Phases, StepSpeedRecord
from nested_reft.config.records.throughput import ThroughputRecord
from nested_reft.report.statistics import completion_gradients as by_completion
from nested_reft.report.statistics.gradients import Grams, cosine, plug_in_bias, relative_bias, scale, variance_ratio
from nested_reft.report.statistics.intervals import Array, median_ratio

THROUGHPUT = ["size", "skip", "tokens_per_s", "speedup", "speedup_low", "speedup_high", "ideal_speedup", "n"]
THROUGHPUT_PAIRS = ["size", "skip", "pair", "baseline_tokens_per_s", "nested_tokens_per_s", "speedup", "skipped_layers"]
STEP_SPEED = ["size", "skip", "seconds", "speedup", "speedup_low", "speedup_high", "n", "completions", "new_tokens"]
PHASES = [f"{side}_{phase}_seconds" for side in ("baseline", "nested") for phase in Phases.model_fields]
STEP_SPEED_PAIRS = ["size", "skip", "pair", *PHASES, "speedup", "skipped_layers"]
GRADIENTS = [
    *("size", "skip", "correction", "bias", "noise_floor", "cosine", "variance_ratio"),
    *("bias_debiased", "bias_low", "bias_high", "cosine_low", "cosine_high", "variance_low", "variance_high"),
    *("scale", "scale_low", "scale_high", "control", "control_low", "control_high", "n", "completions"),
]
COMPLETION_GRADIENTS = [
    *("size", "skip", "correction"),
    *(name + end for name in ("bias", "scale", "cosine", "variance_ratio") for end in ("", "_low", "_high")),
    *("unseen_bound", "covered_target", "covered_behavior", "distinct", "pool", "n"),
]
CELL = ["size", "stage", "strategy", "border", "skip"]
NESTABILITY = [*CELL, "batch", *NestabilityRow.model_fields]
BEHAVIOURS = [*CELL, "precision", "batch", *BehaviourRow.model_fields, "speedup"]

R = TypeVar("R", bound=Record)
Row = dict[str, object]


def layer_names(layers: list[int]) -> str:
    """Indices of layers as one string: "3 5"."""
    return " ".join(map(str, layers))


def measurement_tables(root: Path, config: Config) -> dict[str, pd.DataFrame]:
    """The tables by name, with no rows of what has not been measured, or is no longer among the config's `parts`."""
    skips = {part: nested_skips(config) if part in config.parts else [] for part in get_args(Part)}
    distinct = skips["gradients"] if config.gradients.by_completion else []
    repeated = [0, *skips["throughput"]] if "throughput" in config.parts else []
    throughput, throughput_pairs = _throughput(root / "throughput", config, repeated)
    step_speed, step_speed_pairs = _step_speed(root / "step_speed", config, skips["step_speed"])
    path = root / "exact.json"
    exact = [row.model_dump() for row in read_record(path, ExactRecord).rows] if path.exists() else []
    return {
        "throughput": pd.DataFrame(throughput, columns=THROUGHPUT),
        "throughput_pairs": pd.DataFrame(throughput_pairs, columns=THROUGHPUT_PAIRS),
        "step_speed": pd.DataFrame(step_speed, columns=STEP_SPEED),
        "step_speed_pairs": pd.DataFrame(step_speed_pairs, columns=STEP_SPEED_PAIRS),
        "gradients": pd.DataFrame(_gradients(root / "gradients", config, skips["gradients"]), columns=GRADIENTS),
        "completion_gradients": pd.DataFrame(
            _completion_gradients(root / "completion_gradients", config, distinct), columns=COMPLETION_GRADIENTS
        ),
        "nestability_batches": pd.DataFrame(_nestability(root / "nestability", config), columns=NESTABILITY),
        "behaviour_batches": pd.DataFrame(_behaviours(root / "nestability", config), columns=BEHAVIOURS),
        "exact": pd.DataFrame(exact, columns=list(ExactRow.model_fields)),
    }


def _records(folder: Path, config: Config, skips: Sequence[int], model: type[R]) -> Iterator[tuple[Row, R]]:
    """The records `{size}/skip{skip}.json` that exist, in the config's order, each with size and skip."""
    for size in config.sizes:
        for skip in skips:
            yield from _record(folder / size / f"skip{skip}.json", model, {"size": size, "skip": skip})


def _record(path: Path, model: type[R], key: Row) -> Iterator[tuple[Row, R]]:
    """The record with its key, if it exists."""
    if path.exists():
        record = read_record(path, model)
        check_owner(path, record, key)
        yield key, record


def _throughput(folder: Path, config: Config, skips: Sequence[int]) -> tuple[list[Row], list[Row]]:
    """One row per size and skip, and one per pair; skip 0 pairs the baseline with itself and shows the noise."""
    summary: list[Row] = []
    pairs: list[Row] = []
    for key, record in _records(folder, config, skips, ThroughputRecord):
        nested = np.array([pair.nested_tokens_per_s for pair in record.pairs])
        baseline = np.array([pair.baseline_tokens_per_s for pair in record.pairs])
        speed = {"tokens_per_s": float(np.median(nested)), "ideal_speedup": record.ideal_speedup}
        summary.append({**key, **speed, **_speedup(nested, baseline)})
        for number, pair in enumerate(record.pairs, start=1):
            ratio = pair.nested_tokens_per_s / pair.baseline_tokens_per_s
            own = {"pair": number, "speedup": ratio, "skipped_layers": layer_names(pair.skipped_layers)}
            pairs.append({**key, **pair.model_dump(), **own})
    return summary, pairs


def _step_speed(folder: Path, config: Config, skips: Sequence[int]) -> tuple[list[Row], list[Row]]:
    """One row per size and skip, and one per pair; `seconds` are those of a nested step, the median."""
    summary: list[Row] = []
    pairs: list[Row] = []
    for key, record in _records(folder, config, skips, StepSpeedRecord):
        baseline = np.array([pair.baseline.total for pair in record.pairs])
        nested = np.array([pair.nested.total for pair in record.pairs])
        work = {"completions": record.completions, "new_tokens": record.new_tokens}
        summary.append({**key, "seconds": float(np.median(nested)), **_speedup(baseline, nested), **work})
        for number, pair in enumerate(record.pairs, start=1):
            row = {**key, "pair": number, "speedup": pair.baseline.total / pair.nested.total}
            row |= zip(PHASES, [second for side in (pair.baseline, pair.nested) for _, second in side], strict=True)
            pairs.append({**row, "skipped_layers": layer_names(pair.skipped_layers)})
    return summary, pairs


def _speedup(treatment: Array, control: Array) -> Row:
    """The columns of the median ratio over pairs."""
    found = median_ratio(treatment, control)
    return {"speedup": found.estimate, "speedup_low": found.low, "speedup_high": found.high, "n": found.n}


def _gradients(folder: Path, config: Config, skips: Sequence[int]) -> list[Row]:
    """One row per size, skip and correction, in the config's order; biases and variances relative to on-policy."""
    return [
        {**key, "correction": correction, **_gradient(record, correction)}
        for key, record in _records(folder, config, skips, GradientRecord)
        for correction in config.gradients.corrections
        if correction in record.corrections
    ]


def _gradient(record: GradientRecord, correction: str) -> Row:
    products = record.corrections[correction]
    matrices = (record.on_policy, record.repeat, record.on_policy_repeat, products.own, products.on_policy)
    grams = Grams(*map(np.array, matrices))
    row: Row = {"bias": plug_in_bias(grams), "noise_floor": plug_in_bias(grams.control)}
    for name, bounds, found in (
        ("bias_debiased", "bias", relative_bias(grams)),
        ("scale", "scale", scale(grams)),
        ("cosine", "cosine", cosine(grams)),
        ("variance_ratio", "variance", variance_ratio(grams)),
        ("control", "control", relative_bias(grams.control)),
    ):
        row |= {name: found.estimate, f"{bounds}_low": found.low, f"{bounds}_high": found.high}
    return {**row, "n": record.batches, "completions": record.completions}


def _completion_gradients(folder: Path, config: Config, skips: Sequence[int]) -> list[Row]:
    """One row per size, skip and correction, in the config's order; the last columns but n and pool are means over
    problems.
    """
    return [
        {**key, "correction": correction, **_completion_gradient(record, correction)}
        for key, record in _records(folder, config, skips, CompletionGradientRecord)
        for correction in config.gradients.corrections
        if correction in record.problems[0].corrections
    ]


def _completion_gradient(record: CompletionGradientRecord, correction: str) -> Row:
    problems = record.problems

    def of(name: str) -> Array:
        return np.array([getattr(problem, name) for problem in problems])

    own = [problem.corrections[correction] for problem in problems]
    sums = by_completion.Sums(
        on_policy=of("on_policy"),
        own=np.array([expectation.own for expectation in own]),
        cross=np.array([expectation.on_policy for expectation in own]),
        on_policy_moment=of("second_moment"),
        own_moment=np.array([expectation.second_moment for expectation in own]),
        covered=of("covered_behavior"),
    )
    row: Row = {"unseen_bound": by_completion.unseen_bound(sums), "pool": record.pool, "n": len(problems)}
    row |= {name: float(of(name).mean()) for name in ("covered_target", "covered_behavior", "distinct")}
    for name, found in (
        ("bias", by_completion.problem_bias(sums)),
        ("scale", by_completion.scale(sums)),
        ("cosine", by_completion.direction(sums)),
        ("variance_ratio", by_completion.variance_ratio(sums)),
    ):
        row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
    return row


def _nestability(folder: Path, config: Config) -> list[Row]:
    """One row per size, model, skip, choice of layers and batch, in the config's order."""
    return [{**key, **row} for key, record in _nestability_records(folder, config) for row in _batches(record.batches)]


def _behaviours(folder: Path, config: Config) -> list[Row]:
    """One row per size, model, skip, choice of layers, precision and timed batch, in the config's order."""
    return [
        {**key, "precision": precision, **row}
        for key, record in _nestability_records(folder, config)
        for precision, batches in record.behaviours.items()
        for row in _batches(batches)
    ]


def _nestability_records(folder: Path, config: Config) -> Iterator[tuple[Row, NestabilityRecord]]:
    for stage, size, (skip, strategy, border) in product(measured_models(config), config.sizes, layer_choices(config)):
        key: Row = dict(zip(CELL, (size, stage, strategy, border, skip), strict=True))
        path = folder / stage / size / f"skip{skip}-{strategy}-border{border}.json"
        yield from _record(path, NestabilityRecord, key)


def _batches(batches: Sequence[NestabilityRow]) -> Iterator[Row]:
    for number, batch in enumerate(batches, start=1):
        row: Row = {"batch": number, **batch.model_dump()}
        if isinstance(batch, BehaviourRow):
            row["speedup"] = batch.speedup
        yield row | {"skipped_layers": layer_names(batch.skipped_layers)}
