"""Ablation influence on disk: what `nested-reft influence` writes, read for a run or a measurement."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nested_reft.config.records.influence import InfluenceRecord
from nested_reft.config.records.record import read_record
from nested_reft.core.layer_selection import SELECTIONS
from nested_reft.data.records import DataError


def load_influence(strategy: str, path: Path | None, num_layers: int) -> Tensor | None:
    """The ablation influence (L,) float64 that a strategy reads, in nats per token; None if it reads none.

    Raises DataError if there is no such file, or it is not of a model with `num_layers` layers; RecordError if it is
    damaged.
    """
    if SELECTIONS[strategy].influence_kind != "ablation":
        return None
    if path is None:
        raise DataError(f"strategy '{strategy}' needs --influence, a file that `nested-reft influence` writes")
    try:
        values = read_record(path, InfluenceRecord).influence
    except FileNotFoundError:
        raise DataError(f"{path}: is missing; make it with `nested-reft influence`") from None
    if len(values) != num_layers:
        raise DataError(
            f"{path}: has {len(values)} layers, but the model has {num_layers}; delete the file to make it again"
        )
    return torch.tensor(values, dtype=torch.float64)
