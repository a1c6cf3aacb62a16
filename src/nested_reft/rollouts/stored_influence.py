"""Ablation influence on disk: what `nested-reft influence` writes, read for a run or a measurement."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from nested_reft.core.layer_selection import SELECTIONS
from nested_reft.data.records import DataError

REMEDY = "delete the file to make it again"


def load_influence(strategy: str, path: Path | None, num_layers: int) -> Tensor | None:
    """The ablation influence (L,) float64 that a strategy reads, in nats per token; None if it reads none.

    Raises DataError if there is no such file, or it is not of a model with `num_layers` layers.
    """
    if SELECTIONS[strategy].influence_kind != "ablation":
        return None
    if path is None:
        raise DataError(f"strategy '{strategy}' needs --influence, a file that `nested-reft influence` writes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["influence"]
    except FileNotFoundError:
        raise DataError(f"{path}: is missing; make it with `nested-reft influence`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is not a record of influence ({type(error).__name__}: {error}); {REMEDY}") from None
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not numbers or not all(map(math.isfinite, values)):
        raise DataError(f"{path}: 'influence' must be a list of finite numbers; {REMEDY}")
    if len(values) != num_layers:
        raise DataError(f"{path}: has {len(values)} layers, but the model has {num_layers}; {REMEDY}")
    return torch.tensor(values, dtype=torch.float64)
