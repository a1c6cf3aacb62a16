"""Every layer-selection strategy, in TRL: what it reads is measured, and a resumed run chooses as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_trl import LAYERS, PROMPTS, NestedConfig, config, integration, tokenizer, trainer_of

from nested_reft.core.layer_selection import SELECTIONS
from nested_reft.engine.layer_influence import ablation_influence, layer_influence

NAMES = [name for name, selection in SELECTIONS.items() if not selection.adapts]


def trained(folder: Path, strategy: str, resume: Any = None, **changes: Any) -> Any:
    nested = NestedConfig(skip_percent=40, strategy=strategy, influence=changes.pop("influence", None))
    args = config(folder, max_steps=4, max_completion_length=2, learning_rate=0.2, **changes)
    trainer, _ = trainer_of(args, nested, model=tiny_model(layers=LAYERS))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def draws(trainer: Any) -> list[tuple[int, ...]]:
    return [skipped for skipped, _ in trainer.batches]


def prompts_of(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct prompts of a batch: one of each group of four."""
    return batch["prompt_ids"][::4], batch["prompt_mask"][::4]


@pytest.mark.parametrize("strategy", NAMES)
def test_a_strategy_chooses_and_chooses_again_after_a_resume(tmp_path: Path, strategy: str) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = trained(tmp_path, strategy, **saving)
    assert all(len(skipped) == 2 and set(skipped) <= {1, 2, 3} for skipped in draws(whole))
    assert len(draws(whole)) == 4
    if strategy in ("static", "least"):
        assert len(set(draws(whole))) == 1
    resumed = trained(tmp_path, strategy, resume=str(tmp_path / "checkpoint-2"), **saving)
    assert draws(resumed) == draws(whole)[2:]


def test_block_influence_is_that_of_the_batch_s_prompts_and_of_the_model_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[torch.Tensor] = []

    def spy(strategy: str, model: Any, ids: Any, mask: Any, ablation: Any) -> Any:
        measured.append(layer_influence(model, ids, mask))
        return lambda: measured[-1]

    monkeypatch.setattr(integration, "influence_of", spy)
    trainer = trained(tmp_path, "influence")
    assert len(measured) == 4
    start = layer_influence(tiny_model(layers=LAYERS), *prompts_of(trainer.batches[0][1]))
    torch.testing.assert_close(measured[0], start)
    assert not torch.allclose(measured[3], layer_influence(tiny_model(), *prompts_of(trainer.batches[3][1])))
    for skipped, influence in zip(draws(trainer), measured, strict=True):
        assert skipped == tuple(sorted(sorted((1, 2, 3), key=influence.tolist().__getitem__)[:2]))


@pytest.mark.parametrize("strategy", ["least", "least_half"])
def test_ablation_influence_is_measured_once_and_kept_in_checkpoints(tmp_path: Path, strategy: str) -> None:
    trainer = trained(tmp_path, strategy, save_strategy="steps", save_steps=2)
    start = ablation_influence(tiny_model(layers=LAYERS), *prompts_of(trainer.batches[0][1]))
    torch.testing.assert_close(trainer._influence, start)
    kept = json.loads((tmp_path / "checkpoint-2" / "nested_influence.json").read_text(encoding="utf-8"))
    assert kept == trainer._influence.tolist()
    resumed = trained(tmp_path, strategy, resume=str(tmp_path / "checkpoint-2"))
    assert torch.equal(resumed._influence, trainer._influence)
    after = ablation_influence(trainer.target_model(), *prompts_of(trainer.batches[0][1]))
    assert not torch.allclose(after, start), "training must have changed it, or the file would not matter"


def test_an_influence_that_is_given_is_the_one_that_counts(tmp_path: Path) -> None:
    given = (0.0, 3.0, 1.0, 2.0, 0.0)
    trainer = trained(tmp_path, "least", influence=given, save_strategy="steps", save_steps=2)
    assert draws(trainer) == [(2, 3)] * 4
    other = trained(tmp_path, "least", resume=str(tmp_path / "checkpoint-2"), influence=(0.0, 0.0, 1.0, 2.0, 0.0))
    assert draws(other) == [(1, 2)] * 2


def test_nothing_is_measured_if_nothing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration, "ablation_influence", None)
    trainer, _ = trainer_of(config(tmp_path), NestedConfig(skip_percent=0, strategy="least"))
    ids = [tokenizer()(prompt)["input_ids"] for prompt in PROMPTS]
    assert trainer._draw(ids) == ()
