"""Pre-training of the laptop experiment's models: a small Qwen2 that can calculate but often misreads the story.

Deviations from plain pre-training, both to give small models what large ones have anyway:
- stochastic depth (Huang et al. 2016): each layer that a behaviour model may skip is left out of a batch with
  probability `layer_drop`, so that the model tolerates the loss of a few layers;
- a share of the solutions is wrong, so that the model can solve more than it chooses to: room for reinforcement.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import Pretraining, ScratchModel
from nested_reft.core.layers import nested_view
from nested_reft.data.problems import solved_examples, vocabulary
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.runtime.seeding import derive_seed

PAD, END = "<pad>", "<end>"
BUCKET = 50  # batches that are sorted by length together: less padding; the order of all others stays random
MAX_TOKENS = 256

Example = tuple[list[int], list[int]]  # prompt and solution, as tokens


def build_tokenizer(prompt: Prompt) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows every word of the generated problems, saved and loaded like any other."""
    words = dict.fromkeys([PAD, END, *vocabulary(), *prompt.suffix.split()])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def build_model(settings: ScratchModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """A freshly initialised model; the same for the same seed."""
    torch.manual_seed(seed)
    # The default of 0.02 is right for widths of thousands; at 64 it all but silences every layer, and learning to copy
    # a number takes several times as many steps.
    initializer_range = 0.65 / math.sqrt(settings.width)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=initializer_range,
    )
    return Qwen2ForCausalLM(config)


def pretrain(
    settings: ScratchModel,
    pretraining: Pretraining,
    prompt: Prompt,
    size: str,
    device: torch.device,
    report: Callable[[int, float], None],
) -> Policy:
    """Train a model from scratch on generated problems; `report` is called with each step and its loss."""
    tokenizer = build_tokenizer(prompt)
    model = build_model(settings, tokenizer, derive_seed("init", size, pretraining.seed)).to(device)
    end = tokenizer.eos_token_id
    assert isinstance(end, int), "the tokenizer was built with an end token"
    examples = _encode(pretraining, prompt, tokenizer, end)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.pretraining_learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    # Warm-up, then a cosine that reaches zero at the last step; beta1 goes from 0.95 to 0.85 and back (Smith 2018).
    # With a warm-up of one step it would divide by zero.
    warmup_steps = pretraining.warmup_steps if pretraining.warmup_steps > 1 else 0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.pretraining_learning_rate,
        total_steps=settings.pretraining_steps,
        pct_start=min(0.3, warmup_steps / settings.pretraining_steps),
    )
    rng = random.Random(derive_seed("pretraining", size, pretraining.seed))
    droppable = range(pretraining.border, settings.layers - pretraining.border)
    batches = _batches(examples, pretraining.batch_size, rng)
    for step in range(1, settings.pretraining_steps + 1):
        tokens, targets = (tensor.to(device) for tensor in _collate(next(batches)))
        dropped = [layer for layer in droppable if rng.random() < pretraining.layer_drop]
        loss = _solution_loss(nested_view(model, dropped), tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report(step, loss.item())
    return Policy(model.eval(), tokenizer, (end,), tokenizer.pad_token_id)


def _encode(pretraining: Pretraining, prompt: Prompt, tokenizer: PreTrainedTokenizerFast, end: int) -> list[Example]:
    stream = solved_examples(pretraining.problems, pretraining.wrong_fraction, f"pretraining-{pretraining.seed}")
    pairs = list(itertools.islice(stream, pretraining.problems.problems))
    prompts = encode_prompts([question for question, _ in pairs], prompt, tokenizer, MAX_TOKENS)
    solutions = tokenizer([text for _, text in pairs], add_special_tokens=False)["input_ids"]
    return [(question, [*text, end]) for question, text in zip(prompts, solutions, strict=True)]


def _batches(examples: Sequence[Example], batch_size: int, rng: random.Random) -> Iterator[list[Example]]:
    """Endless random batches of examples of similar length."""
    order = list(range(len(examples)))
    while True:
        rng.shuffle(order)
        for first in range(0, len(order), batch_size * BUCKET):
            bucket = sorted(order[first : first + batch_size * BUCKET], key=lambda i: sum(map(len, examples[i])))
            starts = list(range(0, len(bucket), batch_size))
            rng.shuffle(starts)
            for start in starts:
                yield [examples[index] for index in bucket[start : start + batch_size]]


def _collate(batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Right-padded tokens (rows, length), and the next token of each position, -100 if it is not of the solution."""
    length = max(len(prompt) + len(solution) for prompt, solution in batch)
    tokens = torch.zeros((len(batch), length), dtype=torch.long)
    targets = torch.full((len(batch), length), -100)
    for row, (prompt, solution) in enumerate(batch):
        tokens[row, : len(prompt) + len(solution)] = torch.tensor(prompt + solution)
        targets[row, len(prompt) - 1 : len(prompt) - 1 + len(solution)] = torch.tensor(solution)
    return tokens, targets


def _solution_loss(model: Qwen2ForCausalLM, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the solution's tokens; padding is on the right, where causal attention ignores it."""
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    wanted = targets != -100
    return cross_entropy(model.lm_head(hidden[wanted]), targets[wanted])
