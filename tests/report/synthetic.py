"""Writes result files of a made-up experiment, with effects that a test sets, for the report to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nested_reft.config import PRETRAINED, Config, parse_config, run_table, skipped_count
from nested_reft.report.records import StepRecord


@dataclass(frozen=True)
class Effects:
    """What the made-up experiment finds; `noise` is the standard deviation between seeds (accuracy) and pairs."""

    rollout_gain: float = 0.8  # speed-up is 1 + rollout_gain * share of layers skipped
    step_gain: float = 0.2
    pretrained: float = 0.40
    learned: float = 0.25
    cost: float = 0.05  # accuracy lost per share of layers skipped
    noise: float = 0.0


def make_config(
    sizes: int = 2, datasets: int = 1, benchmarks: int = 2, skips: tuple[int, ...] = (0, 10, 20),
    corrections: tuple[str, ...] = ("base", "unit", "retrace"), seeds: tuple[int, ...] = (1, 2, 3), steps: int = 10,
    experiment: str = "laptop",
) -> Config:  # fmt: skip
    """A valid config with that many of each."""
    model = {"source": "hub", "repo": "nobody/nothing", "layers": 10}
    problems = {"source": "generated", "problems": 50}
    names = ("heldout", "steps", "numbers", "phrasing", "distractors")[:benchmarks]
    settings: dict[str, Any] = {
        "experiment": experiment,
        "sizes": dict.fromkeys(("small", "large")[:sizes], model),
        "datasets": dict.fromkeys(("stories", "svamp", "math")[:datasets], problems),
        "benchmarks": dict.fromkeys(names, problems),
        "skips": list(skips),
        "corrections": {name: {} for name in corrections},
        "seeds": list(seeds),
        "prompt": {"style": "plain"},
        "training": {
            "steps": steps, "problems_per_step": 2, "completions_per_problem": 2, "max_new_tokens": 8,
            "learning_rate": 1e-4,
        },
        "evaluation": {"samples_per_problem": 4, "max_new_tokens": 8},
        "throughput": {"problems": 2, "completions_per_problem": 2, "new_tokens": 8},
    }  # fmt: skip
    return parse_config(settings)


def write_results(root: Path, config: Config, effects: Effects = Effects()) -> None:
    """All result files that the config's pipeline would leave under `root`."""
    rng = np.random.default_rng(0)
    for size in config.sizes:
        key = {"size": size, "dataset": None, "correction": PRETRAINED, "skip": 0, "seed": None}
        _write_evaluations(root, config, rng, effects.pretrained, f"{size}/{PRETRAINED}", key)
        for skip in sorted({0, *config.skips}):
            _write_throughput(root, config, rng, size, skip, effects)
    for run in run_table(config):
        mean = effects.pretrained + effects.learned - effects.cost * run.skip / 100 + rng.normal(0, effects.noise)
        _write_evaluations(root, config, rng, mean, run.path, run.model_dump(), effects.noise)
        lines = [json.dumps(step(config, run.skip, n, effects, rng)) for n in range(1, config.training.steps + 1)]
        write(root / "runs" / run.path / "metrics.jsonl", "".join(line + "\n" for line in lines))


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
        "tokens_per_s": 2000.0 * (1 + effects.step_gain * share) * np.exp(rng.normal(0, effects.noise)),
        "skipped_layers": list(range(1, 1 + round(10 * share))),
        "kl_k3": 1.2 * share**1.5,
        "ess": float(np.exp(-3 * share)),
        "ratio_q50": 1.0,
        **{f"ratio_q{q:02d}": float(np.exp(spread * z)) for q, z in ((1, -2.3), (5, -1.6), (95, 1.2), (99, 1.8))},
    }
    return record


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_evaluations(root: Path, config: Config, rng: np.random.Generator, mean: float, folder: str,
                       key: dict[str, Any], noise: float = 0.0) -> None:  # fmt: skip
    problems, samples = 50, config.evaluation.samples_per_problem
    for number, benchmark in enumerate(config.benchmarks):
        accuracy = float(np.clip(mean - 0.08 * number + rng.normal(0, noise), 0, 1))
        # Exactly round(accuracy * answers) are right, so that with no noise every seed scores the same.
        right = np.arange(problems * samples) < round(accuracy * problems * samples)
        items = [
            {"id": f"{benchmark}-{i}", "greedy": i < round(accuracy * problems), "sampled": answers.tolist()}
            for i, answers in enumerate(right.reshape(problems, samples))
        ]
        record = {**key, "benchmark": benchmark, "items": items, "completions": [], "seconds": 1.0}
        write(root / "evaluations" / folder / f"{benchmark}.json", json.dumps(record))


def _write_throughput(
    root: Path, config: Config, rng: np.random.Generator, size: str, skip: int, effects: Effects
) -> None:
    layers = config.sizes[size].layers
    skipped = skipped_count(layers, skip)
    share = skipped / layers
    pairs = []
    for _ in range(config.throughput.pairs):
        ratio = (1 + effects.rollout_gain * share) * np.exp(rng.normal(0, 0.3 * effects.noise))
        pairs.append({"baseline_tokens_per_s": 9000.0, "nested_tokens_per_s": 9000.0 * ratio,
                      "skipped_layers": list(range(1, 1 + skipped))})  # fmt: skip
    record = {"size": size, "skip": skip, "num_layers": layers, "num_skipped": skipped,
              "ideal_speedup": 1 / (1 - 0.9 * share), "pairs": pairs, "hardware": "none"}  # fmt: skip
    write(root / "throughput" / size / f"skip{skip}.json", json.dumps(record))
