"""The tidy tables of what is measured apart from training: throughput, gradient estimates and the exact biases.

Each function reads the files that exist and returns tables whose columns are always there, with no rows if nothing has
been measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from nested_reft.config.experiment import Config, measured_models
from nested_reft.config.records import (
    ExactRecord,
    ExactRow,
    GradientRecord,
    NestabilityRecord,
    NestabilityRow,
    Phases,
    StepSpeedRecord,
    ThroughputRecord,
    check_owner,
    read_record,
)
from nested_reft.report.statistics.gradients import Grams, cosine, plug_in_bias, relative_bias, variance_ratio
from nested_reft.report.statistics.intervals import Array, median_ratio

THROUGHPUT = ["size", "skip", "tokens_per_s", "speedup", "speedup_low", "speedup_high", "ideal_speedup", "n"]
THROUGHPUT_PAIRS = ["size", "skip", "pair", "baseline_tokens_per_s", "nested_tokens_per_s", "speedup", "skipped_layers"]
STEP_SPEED = ["size", "skip", "seconds", "speedup", "speedup_low", "speedup_high", "n", "completions", "new_tokens"]
SIDES = ("baseline", "nested")
STEP_SPEED_PAIRS = [
    "size", "skip", "pair", *(f"{side}_{phase}_seconds" for side in SIDES for phase in Phases.model_fields), "speedup",
    "skipped_layers",
]  # fmt: skip
GRADIENTS = [
    "size", "skip", "correction", "bias", "noise_floor", "cosine", "variance_ratio",
    "bias_debiased", "bias_low", "bias_high", "cosine_low", "cosine_high", "variance_low", "variance_high",
    "control", "control_low", "control_high", "n", "completions",
]  # fmt: skip
NESTABILITY = ["size", "stage", "strategy", "skip", "batch", *NestabilityRow.model_fields]
EXACT = list(ExactRow.model_fields)

R = TypeVar("R", ThroughputRecord, StepSpeedRecord, GradientRecord, NestabilityRecord)


def throughput_tables(root: Path, config: Config, skips: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per size and skip, and one row per pair; skip 0 pairs the baseline with itself and shows the noise."""
    summary: list[dict[str, object]] = []
    pairs: list[dict[str, object]] = []
    for key, record in _records(root / "throughput", config, (0, *skips), ThroughputRecord):
        nested = np.array([pair.nested_tokens_per_s for pair in record.pairs])
        baseline = np.array([pair.baseline_tokens_per_s for pair in record.pairs])
        tokens_per_s = float(np.median(nested))
        summary.append(
            {**key, "tokens_per_s": tokens_per_s, **_speedup(nested, baseline), "ideal_speedup": record.ideal_speedup}
        )
        for number, pair in enumerate(record.pairs, start=1):
            ratio = pair.nested_tokens_per_s / pair.baseline_tokens_per_s
            pairs.append({**key, "pair": number, **pair.model_dump(), "speedup": ratio})
            pairs[-1]["skipped_layers"] = layer_names(pair.skipped_layers)
    return pd.DataFrame(summary, columns=THROUGHPUT), pd.DataFrame(pairs, columns=THROUGHPUT_PAIRS)


def step_speed_tables(root: Path, config: Config, skips: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per size and skip, and one row per pair; `seconds` are those of a nested step, the median."""
    summary: list[dict[str, object]] = []
    pairs: list[dict[str, object]] = []
    for key, record in _records(root / "step_speed", config, skips, StepSpeedRecord):
        baseline, nested = (np.array([getattr(pair, side).total for pair in record.pairs]) for side in SIDES)
        work = {"completions": record.completions, "new_tokens": record.new_tokens}
        summary.append({**key, "seconds": float(np.median(nested)), **_speedup(baseline, nested), **work})
        for number, pair in enumerate(record.pairs, start=1):
            row = {**key, "pair": number, "speedup": pair.baseline.total / pair.nested.total}
            for side in SIDES:
                row |= {f"{side}_{phase}_seconds": value for phase, value in getattr(pair, side)}
            pairs.append({**row, "skipped_layers": layer_names(pair.skipped_layers)})
    return pd.DataFrame(summary, columns=STEP_SPEED), pd.DataFrame(pairs, columns=STEP_SPEED_PAIRS)


def _speedup(treatment: Array, control: Array) -> dict[str, object]:
    """The columns of the median ratio over pairs."""
    found = median_ratio(treatment, control)
    return {"speedup": found.estimate, "speedup_low": found.low, "speedup_high": found.high, "n": found.n}


def gradient_table(root: Path, config: Config, skips: Sequence[int]) -> pd.DataFrame:
    """One row per size, skip and correction, in the config's order; biases and variances relative to on-policy."""
    rows: list[dict[str, object]] = []
    for key, record in _records(root / "gradients", config, skips, GradientRecord):
        for correction in config.gradients.corrections:
            if correction in record.corrections:
                rows.append({**key, "correction": correction, **_gradient(record, correction)})
    return pd.DataFrame(rows, columns=GRADIENTS)


def nestability_table(root: Path, config: Config, skips: Sequence[int]) -> pd.DataFrame:
    """One row per size, model, way to choose layers, skip and batch, in the config's order."""
    rows: list[dict[str, object]] = []
    for stage in measured_models(config):
        owner = {"stage": stage}
        for key, record in _records(root / "nestability" / stage, config, (0, *skips), NestabilityRecord, owner):
            for strategy, batches in record.strategies.items():
                for number, batch in enumerate(batches, start=1):
                    rows.append({**key, "strategy": strategy, "batch": number, **batch.model_dump()})
                    rows[-1]["skipped_layers"] = layer_names(batch.skipped_layers)
    return pd.DataFrame(rows, columns=NESTABILITY)


def exact_table(root: Path) -> pd.DataFrame:
    """One row per estimator and draw of layers, as in the record."""
    path = root / "exact.json"
    rows = [row.model_dump() for row in read_record(path, ExactRecord).rows] if path.exists() else []
    return pd.DataFrame(rows, columns=EXACT)


def layer_names(skipped: Sequence[int]) -> str:
    """Layer indices as one string: "3 5"."""
    return " ".join(str(layer) for layer in skipped)


def _records(
    folder: Path, config: Config, skips: Sequence[int], model: type[R], owner: Mapping[str, object] | None = None
) -> Iterator[tuple[dict[str, object], R]]:
    """The records `{size}/skip{skip}.json` that exist, in the config's order, each with size, skip and `owner`."""
    for size in config.sizes:
        for skip in skips:
            path = folder / size / f"skip{skip}.json"
            if path.exists():
                record, key = read_record(path, model), {"size": size, "skip": skip, **(owner or {})}
                check_owner(path, record, key)
                yield key, record


def _gradient(record: GradientRecord, correction: str) -> dict[str, object]:
    products = record.corrections[correction]
    grams = Grams(
        on_policy=np.array(record.on_policy),
        repeat=np.array(record.repeat),
        on_policy_repeat=np.array(record.on_policy_repeat),
        own=np.array(products.own),
        cross=np.array(products.on_policy),
    )
    bias, control = relative_bias(grams), relative_bias(grams.control)
    direction, variance = cosine(grams), variance_ratio(grams)
    return {
        "bias": plug_in_bias(grams),
        "noise_floor": plug_in_bias(grams.control),
        "cosine": direction.estimate,
        "variance_ratio": variance.estimate,
        "bias_debiased": bias.estimate,
        "bias_low": bias.low,
        "bias_high": bias.high,
        "cosine_low": direction.low,
        "cosine_high": direction.high,
        "variance_low": variance.low,
        "variance_high": variance.high,
        "control": control.estimate,
        "control_low": control.low,
        "control_high": control.high,
        "n": record.batches,
        "completions": record.completions,
    }
