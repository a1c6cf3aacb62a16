"""Rollouts of a NestedGRPOTrainer on TRL's own generation: whose they are, which layers they leave out, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_trl import (
    LAYERS,
    GRPOTrainer,
    NestedConfig,
    NestedGRPOTrainer,
    at,
    config,
    integration,
    plain_logp,
    trainer_of,
)

TEMPERATURE = 0.9


@pytest.mark.parametrize("skipped", [(), (0,), (LAYERS - 1,), (1, 3), (0, 1, 2, 4)], ids=str)
def test_the_sampler_s_log_probabilities_are_the_view_s_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: tuple[int, ...]
) -> None:
    monkeypatch.setattr(NestedGRPOTrainer, "_draw", lambda self, prompts: skipped)
    trainer, recorder = trainer_of(config(tmp_path, max_steps=3, learning_rate=0.05), NestedConfig())
    trainer.train()
    assert len(trainer.batches) == 3
    moved = {name: (recorder.weights[2][name] - tensor).abs().max() for name, tensor in recorder.weights[0].items()}
    assert max(moved.values()) > 0.01
    for (left_out, batch), weights in zip(trainer.batches, recorder.weights, strict=True):
        assert left_out == skipped
        mask, logp = batch["completion_mask"].bool(), batch["sampling_per_token_logps"]
        of_view = plain_logp(at(weights, skipped), batch, TEMPERATURE)
        assert (of_view - logp)[mask].abs().max() < 1e-4
        away = (plain_logp(at(weights), batch, TEMPERATURE) - logp)[mask].abs().max()
        assert away > 0.1 or not skipped


def test_a_prompt_is_read_once_for_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    sample = integration.sample_completions

    def spy(model: Any, ids: torch.Tensor, mask: torch.Tensor, *, group_size: int, **more: Any) -> Any:
        calls.append((len(ids), group_size))
        return sample(model, ids, mask, group_size=group_size, **more)

    monkeypatch.setattr(integration, "sample_completions", spy)
    trainer, _ = trainer_of(config(tmp_path, max_steps=1), NestedConfig())
    trainer.train()
    # The second group goes on in another process: its two completions are the most that share a prompt everywhere.
    prompts = [[7, 3, 9]] * 4 + [[4, 5]] * 2
    tokens, logps = trainer._generate_single_turn(prompts, None, {}, 4)
    assert calls == [(2, 4), (3, 2)]
    assert [len(row) for row in tokens] == [len(row) for row in logps]
    assert len(tokens) == 6


def test_images_are_refused(tmp_path: Path) -> None:
    trainer, _ = trainer_of(config(tmp_path), NestedConfig())
    with pytest.raises(ValueError, match="images do not go with nested rollouts"):
        trainer._generate_single_turn([[7]], [["an image"]], {}, 1)


def test_evaluation_samples_from_the_whole_model_and_weighs_nothing(tmp_path: Path) -> None:
    args = config(tmp_path, per_device_eval_batch_size=8, max_steps=1)
    trainer, _ = trainer_of(args, NestedConfig(skip_percent=40))
    trainer.train()
    seen: list[dict[str, torch.Tensor]] = []
    compute = GRPOTrainer._compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(inputs)
        return compute(self, model, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_compute_loss", spy)
        metrics = trainer.evaluate(eval_dataset=trainer.train_dataset)
    weights = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
    assert trainer.skipped_layers == ()
    assert len(seen) == 4  # 8 prompts, 4 completions each, 8 in a batch
    for batch in seen:
        whole = plain_logp(at(weights), batch, TEMPERATURE)
        mask = batch["completion_mask"].bool()
        assert (whole - batch["sampling_per_token_logps"])[mask].abs().max() < 1e-4
        assert batch["advantages"].shape == (8,)
    assert not [name for name in metrics if "nested" in name]


def test_a_conversation_is_a_prompt_too(tmp_path: Path) -> None:
    """Through the tokenizer's chat template, which may return more than ids, such as token types."""
    trainer, _ = trainer_of(config(tmp_path, max_steps=1), NestedConfig(skip_percent=40))
    tokenizer = trainer.processing_class
    tokenizer.chat_template = "{% for message in messages %}22 {{ message.content }} 21{% endfor %}"
    tokenizer.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    chats = [[{"role": "user", "content": prompt}] for prompt in trainer.train_dataset["prompt"]]
    trainer.train_dataset = Dataset.from_dict({"prompt": chats})
    trainer.train()
    ((skipped, batch),) = trainer.batches
    assert len(skipped) == 2
    assert (batch["prompt_ids"] == 21).any(dim=1).all()


def draws(trainer: Any) -> list[tuple[int, ...]]:
    return [skipped for skipped, _ in trainer.batches]


def trained(folder: Path, global_seed: int = 0, resume: Any = None, **changes: Any) -> Any:
    """A trainer after training; `global_seed` is torch's, which the draws must not depend on."""
    settings = {"max_steps": 6, "max_completion_length": 2} | changes
    trainer, _ = trainer_of(config(folder, **settings), NestedConfig(skip_percent=40))
    torch.manual_seed(global_seed)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_the_draws_follow_the_seed_and_the_step_alone(tmp_path: Path) -> None:
    first = draws(trained(tmp_path))
    assert len(first) == 6
    assert all(len(skipped) == 2 and 0 not in skipped and LAYERS - 1 not in skipped for skipped in first)
    assert len(set(first)) > 1
    assert draws(trained(tmp_path, global_seed=5, learning_rate=0.3)) == first
    assert draws(trained(tmp_path, seed=12)) != first


def test_there_is_one_draw_for_each_generation_batch(tmp_path: Path) -> None:
    """Three rollouts for six steps have the draws of the steps that they are made at; two in a step have two draws."""
    of_steps = draws(trained(tmp_path))
    buffered = trained(tmp_path, per_device_train_batch_size=4, steps_per_generation=2)
    assert draws(buffered) == of_steps[::2]
    iterated = trained(tmp_path, num_iterations=3)
    assert draws(iterated) == of_steps[::3]
    several = trained(tmp_path, gradient_accumulation_steps=2, steps_per_generation=1)
    assert draws(several)[::2] == of_steps
    assert draws(several)[1::2] != of_steps


@pytest.mark.parametrize("changes", [{}, {"per_device_train_batch_size": 4, "steps_per_generation": 2}], ids=str)
def test_a_resumed_run_draws_as_the_uninterrupted_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "data_seed": 3} | changes
    whole = trained(tmp_path, **changes)
    resumed = trained(tmp_path, global_seed=9, resume=str(tmp_path / "checkpoint-2"), **changes)
    done = 2 // changes.get("steps_per_generation", 1)
    assert draws(resumed) == draws(whole)[done:]
    assert len(draws(resumed)) == len(draws(whole)) - done
    for (_, first), (_, again) in zip(whole.batches[done:], resumed.batches, strict=True):
        assert torch.equal(first["completion_ids"], again["completion_ids"])
    after, before = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
