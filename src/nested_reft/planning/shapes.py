"""The models of an experiment without their weights, from which the plan counts parameters and work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nested_reft.config.experiment import Config
from nested_reft.config.sources import SHAPE_KEYS, FetchedModel, ScratchModel
from nested_reft.core.layers import decoder_layers
from nested_reft.data.provenance import check_shape
from nested_reft.evaluation.throughput import decode_costs
from nested_reft.training.pretrain import build_model, build_tokenizer


@dataclass(frozen=True)
class Shape:
    """A model on torch's meta device, and what is derived from it. Counts are of entries, not bytes."""

    model: PreTrainedModel

    @cached_property
    def parameters(self) -> int:
        """All parameters; a tied matrix counts once, as it is stored."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def adapter_sides(self) -> int:
        """Rows plus columns of all matrices in the layers: the size of an adapter of rank 1 in each of them."""
        modules = decoder_layers(self.model).modules()
        return sum(sum(module.weight.shape) for module in modules if isinstance(module, nn.Linear))

    @cached_property
    def outside(self) -> int:
        """Parameters outside the layers: embedding, head and the last norm."""
        return self.parameters - sum(parameter.numel() for parameter in decoder_layers(self.model).parameters())

    @property
    def layers(self) -> int:
        return len(decoder_layers(self.model))

    @cached_property
    def layer_matrices(self) -> int:
        """Entries of one layer's matrices."""
        modules = decoder_layers(self.model)[0].modules()
        return sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear))

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def query_width(self) -> int:
        """Heads times head width."""
        return self._projection("q_proj")

    @property
    def key_value_width(self) -> int:
        """Entries of a token's keys in one layer; its values have as many."""
        return self._projection("k_proj")

    def _projection(self, name: str) -> int:
        attention: Any = decoder_layers(self.model)[0].self_attn
        return int(getattr(attention, name).out_features)

    @property
    def feed_forward(self) -> int:
        return int(self.model.config.intermediate_size)

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.vocab_size)

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one matrix."""
        return self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight

    def flops(self, tokens: float, context: float, rows: float, skipped: int = 0) -> float:
        """FLOPs of a forward pass over `tokens` at mean `context`, with `rows` of logits, without `skipped` layers."""
        layer, head = decode_costs(self.model, context)
        return tokens * (self.layers - skipped) * layer + rows * head

    def weights_read(self, skipped: int = 0) -> int:
        """Entries that a pass reads: the matrices of the layers that are left, and the head."""
        return (self.layers - skipped) * self.layer_matrices + self.vocabulary * self.width


def model_shape(config: Config, size: str, results: Path) -> Shape | None:
    """The shape of a size: made here, or fetched to `results`/models, or as the config says; None if unknown.

    DataError if the config says otherwise than what was fetched.
    """
    model, fetched = config.sizes[size], results / "models" / size
    with torch.device("meta"):
        if isinstance(model, ScratchModel):
            return Shape(build_model(model, build_tokenizer(config.prompt), 0))
        if (fetched / "config.json").is_file():
            if model.shape is not None:
                check_shape(size, model.shape, fetched)
            return Shape(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(fetched)))
        return _configured(model)


def _configured(model: FetchedModel) -> Shape | None:
    shape = model.shape
    if shape is None:
        return None
    stated = {SHAPE_KEYS[key]: value for key, value in shape.model_dump().items()}
    settings = AutoConfig.for_model(**stated, num_hidden_layers=model.layers)
    return Shape(AutoModelForCausalLM.from_config(settings))
