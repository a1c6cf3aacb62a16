"""Writes result files of a made-up experiment, with effects that a test sets, for the report to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nested_reft.config.experiment import Config, layer_choices, measured_models, parse_config, stages
from nested_reft.config.records.training import StepRecord
from nested_reft.config.run_table import all_runs
from nested_reft.core.layer_selection import num_skipped
from nested_reft.report.collect.collect import collect

DIMENSIONS = 200  # of the made-up gradients
# Pairs differ by this share from one to the next, and the baseline's seeds by one answer, all around their mean: values
# that are all equal have no interval.
PAIR_SPREAD = 1e-7
# How far off-policy a layer-selection strategy is: a factor of uniform's KL, a power of its effective sample size.
STRATEGY_POWER = {"uniform": 1.0, "static": 2.0}
MANIFEST = {
    **{"commit": "0123abcd", "dirty": False, "settings": {}, "versions": {"torch": "2.9.0", "numpy": "2.1.0"}},
    **{"python": "3.12.0", "platform": "Linux", "processor": "A processor", "cores": 2, "threads": 1, "gpus": []},
    **{"wall_seconds": 1.5, "alarms": []},
}


@dataclass(frozen=True)
class Effects:
    """What the made-up experiment finds; `noise` is the standard deviation between seeds (accuracy) and pairs.

    `bias` and `variance` are of the corrections' gradient estimates, relative to the on-policy ones (0 and 1 where a
    correction is not named); `gradient_noise` is the root of a batch's variance over the squared norm. `strategy_cost`
    is the accuracy lost with a layer-selection strategy.
    """

    rollout_gain: float = 0.8  # speed-up is 1 + rollout_gain * share of layers skipped
    step_gain: float = 0.2
    pretrained: float = 0.40
    warmed_up: float = 0.10  # gain of the warm-up, if there is one
    learned: float = 0.25
    cost: float = 0.05  # accuracy lost per share of layers skipped
    noise: float = 0.0
    bias: Mapping[str, float] = field(default_factory=dict)
    variance: Mapping[str, float] = field(default_factory=dict)
    gradient_noise: float = 0.3
    strategy_cost: Mapping[str, float] = field(default_factory=dict)


def make_config(
    sizes: int = 2,
    datasets: int = 1,
    benchmarks: int = 2,
    skips: tuple[int, ...] = (0, 10, 20),
    corrections: tuple[str, ...] = ("base", "unit", "retrace"),
    seeds: tuple[int, ...] = (1, 2, 3),
    steps: int = 10,
    experiment: str = "laptop",
    strategies: tuple[str, ...] = ("uniform",),
    gradients: tuple[str, ...] = ("base", "is_sequence"),
    batches: int = 16,
    skips_of: Mapping[str, list[int]] | None = None,
    warmup: bool = False,
    nestability: bool = False,
    precisions: tuple[str, ...] = (),
    borders: tuple[int, ...] = (),
    by_completion: bool = False,
) -> Config:
    """A valid config with that many of each; `skips_of` names corrections that are run at some skips only."""
    model = {"source": "hub", "repo": "nobody/nothing", "layers": 10}
    problems = {"source": "generated", "problems": 50}
    names = ("heldout", "steps", "numbers", "phrasing", "distractors")[:benchmarks]
    per_step = {"problems_per_step": 2, "completions_per_problem": 2}
    batch = {"problems_per_batch": 2, "completions_per_problem": 2}
    settings: dict[str, Any] = {
        "experiment": experiment,
        "sizes": dict.fromkeys(("small", "large")[:sizes], model),
        "datasets": dict.fromkeys(("stories", "svamp", "math")[:datasets], problems),
        "benchmarks": dict.fromkeys(names, problems),
        "skips": list(skips),
        "corrections": {name: {"skips": (skips_of or {}).get(name)} for name in corrections},
        "seeds": list(seeds),
        "prompt": {"style": "plain"},
        "training": {**per_step, "steps": steps, "max_new_tokens": 8, "learning_rate": 1e-4},
        "evaluation": {"samples_per_problem": 4, "max_new_tokens": 8},
        "throughput": {"problems": 2, "completions_per_problem": 2, "new_tokens": 8},
        "gradients": {"corrections": {name: {} for name in gradients}, "batches": batches, **batch},
    }
    if by_completion:
        settings["gradients"]["by_completion"] = {"problems": 3, "pool": 2}
    if warmup:
        datasets_of = {"datasets": {"solved": problems}, "layer_drop": 0.1 if nestability else 0.0}
        settings["warmup"] = {**datasets_of, "steps": 1, "solutions_per_batch": 1, "learning_rate": 1e-4}
    if nestability:
        settings["nestability"] = {
            "batches": 4, **batch, "without_layer_drop": warmup, "precisions": precisions, "borders": borders,
        }  # fmt: skip
    if len(strategies) > 1:
        settings["layer_choice"] = {"strategies": strategies, "skip": max(skips), "correction": corrections[-1]}
    return parse_config(settings)


def write_results(root: Path, config: Config, effects: Effects = Effects()) -> None:
    """All result files that the config's pipeline would leave under `root`."""
    rng = np.random.default_rng(0)
    for size in config.sizes:
        for place, stage in enumerate(stages(config)):
            key = {"size": size, "dataset": None, "correction": stage, "skip": 0, "strategy": "uniform", "seed": None}
            _write_evaluations(
                root, config, rng, effects.pretrained + place * effects.warmed_up, f"{size}/{stage}", key
            )
        for skip in sorted({0, *config.skips}):
            _write_throughput(root, config, rng, size, skip, effects)
            if skip:
                _write_step_speed(root, config, rng, size, skip, effects)
                record = gradient_record(config, size, skip, effects, np.random.default_rng([skip, len(size)]))
                write(root / "gradients" / size / f"skip{skip}.json", json.dumps(record))
        for place, stage in enumerate(measured_models(config)):
            for skip, strategy, border in layer_choices(config):
                found = nestability_record(config, size, stage, skip, strategy, border, 2.0**-place)
                path = root / "nestability" / stage / size / f"skip{skip}-{strategy}-border{border}.json"
                write(path, json.dumps(found))
    write(root / "exact.json", json.dumps({"rows": exact_rows()}))
    for run in all_runs(config):
        mean = effects.pretrained + effects.learned - effects.cost * run.skip / 100 + rng.normal(0, effects.noise)
        mean -= effects.strategy_cost.get(run.strategy, 0.0) if run.skip else 0.0
        more = config.seeds.index(run.seed) - (len(config.seeds) - 1) // 2 if not run.skip else 0
        _write_evaluations(root, config, rng, mean, run.path, run.model_dump(), effects.noise, more)
        steps = [step(config, run.skip, n, effects, rng) for n in range(1, config.training.steps + 1)]
        power = STRATEGY_POWER.get(run.strategy, 1.5)
        lines = [
            json.dumps(record | {"ess": record["ess"] ** power, "kl_k3": power * record["kl_k3"]}) for record in steps
        ]
        write(root / "runs" / run.path / "metrics.jsonl", "".join(line + "\n" for line in lines))
        write(root / "runs" / run.path / "manifest.json", json.dumps(MANIFEST | {"settings_hash": run.path}))


def collect_results(root: Path, config: Config, effects: Effects = Effects()) -> None:
    """Write all result files, and collect them."""
    write_results(root, config, effects)
    collect(root, config)


def step(config: Config, skip: int, number: int, effects: Effects, rng: np.random.Generator) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    share, progress = skip / 100, number / config.training.steps
    spread = 3 * share
    record = dict.fromkeys(StepRecord.model_fields, 0.1) | {
        "step": number,
        "reward": effects.pretrained + effects.learned * progress - effects.cost * share + rng.normal(0, effects.noise),
        "completion_length": 12.0,
        "rollout_seconds": 0.5 / (1 + effects.rollout_gain * share),
        "reward_seconds": 0.05,
        "update_seconds": 1.1,
        "tokens_per_s": 2000.0,
        "skipped_layers": list(range(1, 1 + round(10 * share))),
        "kl_k3": 1.2 * share**1.5,
        "ess": float(np.exp(-3 * share)),
        "ratio_q50": 1.0,
        **{f"ratio_q{q:02d}": float(np.exp(spread * z)) for q, z in ((1, -2.3), (5, -1.6), (95, 1.2), (99, 1.8))},
    }
    return record


def gradient_record(config: Config, size: str, skip: int, effects: Effects, rng: np.random.Generator) -> dict[str, Any]:
    """The inner products of made-up gradient estimates with the bias and variance of `effects`."""
    n = config.gradients.batches
    a, r, corrected = gradient_sets(list(config.gradients.corrections), n, effects, rng)
    products = {name: {"own": (o @ o.T).tolist(), "on_policy": (a @ o.T).tolist()} for name, o in corrected.items()}
    return {
        **{"size": size, "skip": skip, "num_parameters": DIMENSIONS, "coordinates": DIMENSIONS, "batches": n},
        "completions": config.gradients.problems_per_batch * config.gradients.completions_per_problem,
        **{"on_policy": (a @ a.T).tolist(), "repeat": (r @ r.T).tolist(), "on_policy_repeat": (a @ r.T).tolist()},
        "corrections": products,
    }


def gradient_sets(
    names: list[str], n: int, effects: Effects, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Gradient estimates (n, DIMENSIONS): on-policy, on-policy again, and one set per correction.

    The expected gradient has norm 1. Half of a batch's variance is of its problems, which all sets share.
    """
    gradient, direction = np.eye(DIMENSIONS)[:2]
    scale = effects.gradient_noise / np.sqrt(2 * DIMENSIONS)
    problems = rng.normal(0, scale, (n, DIMENSIONS))

    def estimates(bias: float, variance: float) -> np.ndarray:
        noise = problems + rng.normal(0, scale, (n, DIMENSIONS))
        return gradient + bias * direction + np.sqrt(variance) * noise

    corrected = {name: estimates(effects.bias.get(name, 0.0), effects.variance.get(name, 1.0)) for name in names}
    return estimates(0, 1), estimates(0, 1), corrected


def nestability_record(
    config: Config, size: str, stage: str, skip: int, strategy: str, border: int, factor: float
) -> dict[str, Any]:
    """Batch n of strategy s, from 1, has `factor` times the KL 0.01 * skip / s / border * n, and the ESS exp(-KL).

    In precision p, from 1, all are the same, and p times as fast as the whole model, but for 1 % more each batch, and
    for the layers that are left out.
    """
    assert config.nestability is not None
    place = config.nestability.strategies.index(strategy) + 1
    kls = [factor * 0.01 * skip / place / border * number for number in range(1, config.nestability.batches + 1)]
    fixed = {"skipped_layers": list(range(1, 1 + round(skip / 10))), "tokens": 30, "reward": 0.5 - skip / 100}
    batches = [
        {**fixed, "kl_k1": kl, "kl_k3": kl, "ess": float(np.exp(-kl)), "ess_sequence": float(np.exp(-8 * kl))}
        for kl in kls
    ]
    baseline = {"seconds": 1.0, "baseline_tokens": 20}
    behaviours = {
        precision: [
            {**row, **baseline, "baseline_seconds": fast * (1 + skip / 100 + n / 100) / 1.5}
            for n, row in enumerate(batches)
        ]
        for fast, precision in enumerate(config.nestability.precisions, start=1)
    }
    key = {"size": size, "stage": stage, "skip": skip, "strategy": strategy, "border": border}
    return {**key, "num_layers": 10, "completions": 4, "batches": batches, "behaviours": behaviours}


def exact_rows() -> list[dict[str, Any]]:
    """The rows of exact.json: 'is_sequence' is unbiased, 'retrace' is not, more so with more layers left out."""
    fixed = {"baseline": "group_mean", "std": True, "normalisation": "grpo", "max_weight": 2.0}
    rows = []
    for correction, params, per_layer in (("is_sequence", "", 1e-17), ("retrace", "lambda=1", 0.125)):
        for skipped, count in (("none", 0), ("1", 1), ("2", 1), ("1 2", 2), ("drawn", 1), ("drawn", 2)):
            # Layer 2 matters twice as much as layer 1; a draw is in between.
            bias = per_layer * {"none": 0, "1": 1, "2": 2, "1 2": 3}.get(skipped, 1.5 * count)
            key = {"skipped": skipped, "num_skipped": count, "correction": correction, "params": params}
            ratios = {"variance_ratio": 1 + count, "second_moment_ratio": 1.0}
            rows.append({**key, **fixed, **ratios, "bias": bias, "cosine": 1 - bias})
    return rows


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_evaluations(
    root: Path,
    config: Config,
    rng: np.random.Generator,
    mean: float,
    folder: str,
    key: dict[str, Any],
    noise: float = 0.0,
    more: int = 0,
) -> None:
    problems, samples = 50, config.evaluation.samples_per_problem
    for number, benchmark in enumerate(config.benchmarks):
        accuracy = float(np.clip(mean - 0.08 * number + rng.normal(0, noise), 0, 1))
        # Exactly round(accuracy * answers) are right, and `more`: with no noise nothing else varies.
        right = np.arange(problems * samples) < round(accuracy * problems * samples) + more
        items = [
            {"id": f"{benchmark}-{i}", "greedy": i < round(accuracy * problems), "sampled": answers.tolist()}
            for i, answers in enumerate(right.reshape(problems, samples))
        ]
        said = {"prompt": f"What is {number} ? answer :", "gold": str(number), "response": f"{number} + 0 = {number}"}
        examples = [{"id": items[0]["id"], **said, "kind": kind, "right": True} for kind in ("greedy", "sampled")]
        record = {**key, "benchmark": benchmark, "items": items, "completions": examples}
        write(
            root / "evaluations" / folder / f"{benchmark}.json",
            json.dumps({**record, "rollout_engine": "torch", "seconds": 1.0}),
        )


def _write_throughput(
    root: Path, config: Config, rng: np.random.Generator, size: str, skip: int, effects: Effects
) -> None:
    layers, skipped = config.sizes[size].layers, num_skipped(config.sizes[size].layers, skip)
    share, skipped_layers = skipped / layers, list(range(1, 1 + skipped))
    pairs = []
    for number in range(config.throughput.pairs):
        ratio = (1 + effects.rollout_gain * share) * _varied(rng, effects, number, config.throughput.pairs)
        speeds = {"baseline_tokens_per_s": 9000.0, "nested_tokens_per_s": 9000.0 * ratio}
        pairs.append({**speeds, "skipped_layers": skipped_layers})
    record = {"size": size, "skip": skip, "num_layers": layers, "num_skipped": skipped, "hardware": "none"}
    record |= {"ideal_speedup": 1 / (1 - 0.9 * share), "pairs": pairs}
    write(root / "throughput" / size / f"skip{skip}.json", json.dumps(record))


def _write_step_speed(
    root: Path, config: Config, rng: np.random.Generator, size: str, skip: int, effects: Effects
) -> None:
    skipped = num_skipped(config.sizes[size].layers, skip)
    gain, pairs = 1 + effects.step_gain * skipped / config.sizes[size].layers, []
    for number in range(config.step_speed.pairs):
        seconds = 1.6 / gain * _varied(rng, effects, number, config.step_speed.pairs)
        baseline, nested = ({"rollout": rollout, "reward": 0.1, "update": 1.0} for rollout in (0.5, seconds - 1.1))
        pairs.append({"baseline": baseline, "nested": nested, "skipped_layers": list(range(1, 1 + skipped))})
    record = {"size": size, "skip": skip, "completions": 4, "new_tokens": 8, "pairs": pairs}
    write(root / "step_speed" / size / f"skip{skip}.json", json.dumps(record))


def _varied(rng: np.random.Generator, effects: Effects, number: int, pairs: int) -> float:
    """The factor by which a pair differs from the others."""
    return float(np.exp(rng.normal(0, 0.3 * effects.noise)) * (1 + PAIR_SPREAD * (number - pairs // 2)))
