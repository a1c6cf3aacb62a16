"""What a run records: the metrics of every step, alarms, and the batch of a step that went wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nested_reft.config.training import Alarms
from nested_reft.training.accumulation import Batch


def step_row(
    step: int, batch: Batch, metrics: Mapping[str, float], learning_rate: float, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """One step's row of metrics; `seconds` are those of the phases rollout, reward and update."""
    num_tokens = int(batch.rollout.mask.sum())
    return {
        "step": step,
        "reward": batch.rewards.mean().item(),
        "reward_std": batch.rewards.std().item(),
        "completion_length": num_tokens / len(batch.rollout.mask),
        "skipped_layers": list(batch.skipped),
        "learning_rate": learning_rate,
        **metrics,
        **{f"{phase}_seconds": value for phase, value in seconds.items()},
        "rollout_tokens_per_s": num_tokens / seconds["rollout"],
        "tokens_per_s": num_tokens / sum(seconds.values()),
    }


def step_alarms(row: Mapping[str, Any], limits: Alarms) -> list[dict[str, Any]]:
    """The alarms of one step, for log and manifest, from its row of metrics: step, quantity, value, limit.

    A limit of None is off. A value that is not a number is an alarm if its limit is on.
    """
    texts = {}
    if limits.ess_below is not None and not row["ess"] >= limits.ess_below:
        texts["ess"] = f"below {limits.ess_below}"
    if limits.kl_above is not None and not row["kl_k3"] <= limits.kl_above:
        texts["kl_k3"] = f"above {limits.kl_above}"
    return [{"step": row["step"], "quantity": name, "value": row[name], "limit": text} for name, text in texts.items()]


def save_batch(path: Path, batch: Batch) -> None:
    """Write a batch for inspection: the fields of `Rollout` and the rewards as tensors, the layers as metadata."""
    fields = {name: value for name, value in vars(batch.rollout).items() if value is not None}
    tensors = {name: value.cpu().contiguous() for name, value in (fields | {"rewards": batch.rewards}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"skipped_layers": json.dumps(list(batch.skipped))})
