"""Tiny models that vLLM takes, engines of them, and how far what they sample is from what transformers computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from nested_reft.integrations.vllm import engine_arguments

LAYERS, VOCABULARY, LENGTH, TEMPERATURE = 8, 128, 256, 0.7
# Both compute in float32; what is left is the order of additions.
TOLERANCE = 1e-4
SKIPS = [(), (0,), (LAYERS - 1,), (2, 5), (0, 1, 6, 7), (1, 2, 3, 4, 5, 6)]
# A tied head and biases; an untied head and none. vLLM's kernels want heads of at least 32.
KINDS: dict[str, tuple[Any, Any, bool]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, True),
    "llama": (LlamaConfig, LlamaForCausalLM, False),
}


@dataclass(frozen=True)
class Completion:
    """A prompt's tokens, those that were sampled after it, and their log-probabilities as vLLM reports them."""

    prompt: list[int]
    tokens: list[int]
    logp: list[float]


def save_model(kind: str, folder: Path) -> PreTrainedModel:
    """A model with random weights large enough that every layer matters; saves it with a tokenizer."""
    config_class, model_class, tied = KINDS[kind]
    config = config_class(
        hidden_size=64, intermediate_size=128, num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=VOCABULARY, max_position_embeddings=LENGTH, tie_word_embeddings=tied, eos_token_id=None,
        bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = model_class(config).eval()
    move_weights(model, 0.15, seed=0)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return model


def move_weights(model: PreTrainedModel, scale: float, seed: int) -> None:
    """What an update does: every weight moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def prompts() -> list[list[int]]:
    """Four prompts of different lengths; the first 140 tokens of two are the same, more than a block of the cache."""
    ids = torch.randint(VOCABULARY, (4, 160), generator=torch.Generator().manual_seed(1)).tolist()
    return [ids[0][:5], ids[1][:33], ids[2][:140] + ids[3][:9], ids[2][:140] + ids[3][20:40]]


def make_engine(folder: Path, **arguments: Any) -> Any:
    """An engine in this process, in float32; `arguments` replace those of `engine_arguments()`."""
    import vllm

    defaults = {"dtype": "float32", "max_model_len": LENGTH, "seed": 0}
    return vllm.LLM(str(folder), **{**defaults, **engine_arguments(), **arguments})


def sample(llm: Any) -> list[Completion]:
    """Two completions of 12 tokens for each prompt."""
    import vllm

    options = vllm.SamplingParams(n=2, temperature=TEMPERATURE, max_tokens=12, logprobs=0, seed=1, ignore_eos=True)
    asked = [{"prompt_token_ids": prompt} for prompt in prompts()]
    found = []
    for prompt, answer in zip(prompts(), llm.generate(asked, options, use_tqdm=False), strict=True):
        for output in answer.outputs:
            tokens = list(output.token_ids)
            logp = [of_step[token].logprob for token, of_step in zip(tokens, output.logprobs, strict=True)]
            found.append(Completion(prompt, tokens, logp))
    return found


@torch.no_grad()
def logp_error(model: PreTrainedModel, completions: list[Completion]) -> float:
    """The largest distance of the reported log-probabilities from those of `model`, by transformers, in nats."""
    assert completions
    worst = 0.0
    for completion in completions:
        assert len(completion.tokens) == 12
        ids = torch.tensor([completion.prompt + completion.tokens])
        logits = model(input_ids=ids).logits[0, len(completion.prompt) - 1 : -1].float()
        expected = torch.log_softmax(logits / TEMPERATURE, dim=-1)
        expected = expected.gather(-1, torch.tensor(completion.tokens).unsqueeze(-1)).squeeze(-1)
        worst = max(worst, float((expected - torch.tensor(completion.logp)).abs().max()))
    return worst
