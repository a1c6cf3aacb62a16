"""A policy so small that every completion it can write is listed, with its probability and its gradient in float64.

Expectations over the completions are then finite sums, see `nested_reft.evaluation.exact`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from nested_reft.core.layers import decoder_layers, nested_view

END_ID = 0
PROMPT = (2, 1)
WIDTH = 4


def enumerate_completions(vocab: int, horizon: int, end_id: int = END_ID) -> tuple[Tensor, Tensor]:
    """Every completion of at most `horizon` tokens: tokens (N, T), padded with the end token, and mask (N, T).

    A completion ends with its first end token, which its mask includes, or at the horizon without one. Raises
    ValueError if `end_id` is not one of the `vocab` tokens, or the horizon is below 1.
    """
    if not 0 <= end_id < vocab:
        raise ValueError(f"end_id must be one of the {vocab} tokens, got {end_id}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    others = [token for token in range(vocab) if token != end_id]
    rows: list[tuple[int, ...]] = []
    for length in range(1, horizon):
        rows += [(*start, end_id) for start in itertools.product(others, repeat=length - 1)]
    rows += [(*start, last) for start in itertools.product(others, repeat=horizon - 1) for last in range(vocab)]
    tokens = torch.tensor([[*row, *[end_id] * (horizon - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, torch.arange(horizon) < lengths.unsqueeze(1)


def exact_model(vocab: int, *, layers: int = 5, seed: int = 0, scale: float = 0.5) -> PreTrainedModel:
    """A Qwen2 of a few hundred parameters that computes in float64 throughout; `scale` is that of the weights.

    Qwen2's own normalisation casts to float32, whose rounding (1e-7) would hide what is to be shown to 1e-10, so
    `torch.nn.RMSNorm` takes its place. The other casts are the rotary angles, which are constants.
    """
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=6, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=2, max_position_embeddings=16, tie_word_embeddings=True,
        attn_implementation="sdpa", pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for layer in decoder_layers(model):
        layer.input_layernorm = nn.RMSNorm(WIDTH, eps=1e-6)
        layer.post_attention_layernorm = nn.RMSNorm(WIDTH, eps=1e-6)
    model.model.norm = nn.RMSNorm(WIDTH, eps=1e-6)
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model


def token_logp(model: PreTrainedModel, tokens: Tensor, mask: Tensor) -> Tensor:
    """log pi of each token of the completions `tokens` (N, T) of the prompt under `model`: (N, T), 0 off the mask."""
    prompt = torch.tensor(PROMPT).expand(len(tokens), -1)
    logits = model(input_ids=torch.cat((prompt, tokens[:, :-1]), dim=1), use_cache=False).logits
    log_probs = torch.log_softmax(logits[:, len(PROMPT) - 1 :], dim=-1)
    return torch.where(mask, log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), 0.0)


@dataclass(frozen=True)
class ExactPolicy:
    """A target policy pi with its N completions of at most T tokens, and its D parameters.

    tokens, mask: (N, T); logp: (N, T) float64, log pi, 0 off the mask; jacobian: (N, T, D), d log pi / d parameters.
    """

    model: PreTrainedModel
    tokens: Tensor
    mask: Tensor
    logp: Tensor
    jacobian: Tensor

    @property
    def horizon(self) -> int:
        """T, the most tokens of a completion."""
        return self.mask.shape[1]

    @property
    def mean_length(self) -> float:
        """E_pi |o|, in tokens."""
        return (probabilities(self.logp) @ self.mask.sum(dim=1).double()).item()

    def behavior_logp(self, skipped: tuple[int, ...]) -> Tensor:
        """log b (N, T) of the completions under the nested view without the `skipped` layers."""
        with torch.no_grad():
            return token_logp(nested_view(self.model, skipped), self.tokens, self.mask)

    def true_gradient(self, rewards: Tensor) -> Tensor:
        """The gradient (D,) of J = sum_o pi(o) R(o), rewards (N,), by autograd through the probabilities."""
        expected = probabilities(token_logp(self.model, self.tokens, self.mask)) @ rewards
        return _flat(torch.autograd.grad(expected, list(self.model.parameters())))

    def draws(self, count: int, border: int) -> list[tuple[int, ...]]:
        """Every set of `count` layers without the `border` layers at either end."""
        layers = len(decoder_layers(self.model))
        return list(itertools.combinations(range(border, layers - border), count))


def exact_policy(vocab: int = 3, horizon: int = 3, *, layers: int = 5, seed: int = 0) -> ExactPolicy:
    """The policy with weights of this seed, its completions, their log-probabilities and each token's gradient."""
    model = exact_model(vocab, layers=layers, seed=seed)
    tokens, mask = enumerate_completions(vocab, horizon)
    logp = token_logp(model, tokens, mask)
    parameters = list(model.parameters())
    chosen = torch.eye(int(mask.sum()), dtype=torch.float64)
    rows = torch.autograd.grad(logp[mask], parameters, chosen, is_grads_batched=True)  # each (tokens, *shape)
    jacobian = torch.zeros(*mask.shape, sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    jacobian[mask] = torch.cat([row.flatten(1) for row in rows], dim=1)
    return ExactPolicy(model, tokens, mask, logp.detach(), jacobian)


def probabilities(logp: Tensor) -> Tensor:
    """The probability of each completion, (N,), from the log-probabilities of its tokens, (N, T), 0 off the mask."""
    return logp.sum(dim=1).exp()


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
