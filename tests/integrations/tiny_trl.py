"""Tiny trainings with TRL on a CPU: a model with random weights whose layers all matter, a tokenizer of its numbers,
and a reward that some completions of most groups get.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from nested_reft.core.layers import nested_view
from nested_reft.integrations.trl_config import NestedConfig

# A module of tests that imports this one is skipped as a whole.
trl = pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")
integration = pytest.importorskip("nested_reft.integrations.trl")
GRPOConfig, GRPOTrainer, NestedGRPOTrainer = trl.GRPOConfig, trl.GRPOTrainer, integration.NestedGRPOTrainer

VOCAB, PAD, END, LAYERS = 23, 0, 1, 5
PROMPTS = ["7 3 9", "4 5", "12 8 2 6 11", "21", "3 3 17 20", "5 9 13 2 2 8", "10 4", "6 19 7"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Each token is a number, its own id; 0 and 1 are the pad and the end."""
    words = {"<pad>": PAD, "<end>": END} | {str(number): number for number in range(2, VOCAB)}
    fast = Tokenizer(models.WordLevel(words, unk_token="2"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="<end>", padding_side="left")


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """1 or 0, by the sum of a completion's numbers: about as often as not."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def config(folder: Path, **changes: Any) -> Any:
    """Two groups of four completions for each of two steps; float32, plain SGD, whose step shows the gradient."""
    settings: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 2,
        "max_completion_length": 6, "temperature": 0.9, "loss_type": "grpo", "learning_rate": 0.01, "optim": "sgd",
        "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "bf16": False, "gradient_checkpointing": False,
        "use_cpu": True, "report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
        "dataloader_pin_memory": False, "seed": 11,
    }  # fmt: skip
    return GRPOConfig(**settings | changes)


class Recorder(TrainerCallback):
    """The weights at the start of each optimizer step and the gradients at its end, and what was logged."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.logs: list[dict[str, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.weights.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients.append(
            {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))


def recorded(trainer_class: type) -> type:
    """The trainer with the list `batches`: layers left out and a copy of each generation batch in training."""

    class Recorded(trainer_class):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            if self.model.training:
                self.__dict__.setdefault("batches", []).append(
                    (getattr(self, "skipped_layers", None), {key: tensor.clone() for key, tensor in output.items()})
                )
            return output

    return Recorded


def trainer_of(
    args: Any, nested: NestedConfig | None, *, model: PreTrainedModel | None = None, base: type | None = None,
    **more: Any,
) -> tuple[Any, Recorder]:  # fmt: skip
    """A trainer that records, nested or (with `nested` None) TRL's own, and its callback."""
    recorder = Recorder()
    trainer = recorded(base or (GRPOTrainer if nested is None else NestedGRPOTrainer))(
        model=tiny_model(layers=LAYERS) if model is None else model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer(),
        callbacks=[recorder],
        **({} if nested is None else {"nested": nested}),
        **more,
    )
    return trainer, recorder


def plain_logp(model: PreTrainedModel, batch: dict[str, Tensor], temperature: float) -> Tensor:
    """log-probabilities (B, T) of a batch's completions by the model's own forward on whole sequences."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    length = batch["completion_ids"].shape[1]
    log_probs = torch.log_softmax(logits[:, -length - 1 : -1] / temperature, dim=-1)
    return log_probs.gather(-1, batch["completion_ids"].unsqueeze(-1)).squeeze(-1) * batch["completion_mask"]


def at(weights: dict[str, Tensor], skipped: tuple[int, ...] = ()) -> PreTrainedModel:
    """A fresh tiny model with these weights, without the skipped layers."""
    model = tiny_model(layers=LAYERS)
    model.load_state_dict(weights)
    return nested_view(model, skipped).eval()
