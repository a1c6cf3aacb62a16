"""Low-rank adapters (LoRA, Hu et al. 2021) through peft, for models whose optimizer states do not fit.

The adapters are part of the model's layers, so that a nested view shares them like every other parameter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from nested_reft.config.training import Lora
from nested_reft.runtime.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel


class AdapterError(UserError, RuntimeError):
    """An adapter was asked for and cannot be made; the message is for the user."""


def add_adapter(model: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Put adapters into the model's linear layers, in place, and freeze everything else.

    Their first matrices are drawn from `seed`; at the start they change nothing. `merge_and_unload` of the result
    makes them part of the weights, in place.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise AdapterError("training.lora needs the package peft; run: pip install -e '.[lora]'") from None
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():  # peft draws from the global generator
        torch.manual_seed(seed)
        return get_peft_model(model, config)
