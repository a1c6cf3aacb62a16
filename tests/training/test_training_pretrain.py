"""Pre-training lowers the loss and is repeatable; the policy survives the way to disk, its tokenizer word by word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import MODEL, PRETRAINING, PROMPT, tiny_policy

from nested_reft.config.sources import Pretraining
from nested_reft.data.problems import vocabulary
from nested_reft.data.records import DataError
from nested_reft.rollouts.policy import Policy, load_policy, save_policy, select_device
from nested_reft.training.pretrain import END, PAD, _collate, pretrain

CPU = torch.device("cpu")


def pretrained(pretraining: Pretraining = PRETRAINING, steps: int = 40) -> tuple[Policy, list[float]]:
    losses: list[float] = []
    model = MODEL.model_copy(update={"pretraining_steps": steps})
    policy = pretrain(model, pretraining, PROMPT, "tiny", CPU, lambda step, loss: losses.append(loss))
    return policy, losses


def test_the_loss_falls() -> None:
    _, losses = pretrained()
    assert len(losses) == 40
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


def test_pretraining_is_repeatable_and_depends_on_its_seed() -> None:
    (one, first), (two, second) = pretrained(steps=5), pretrained(steps=5)
    assert first == second
    for parameter, other in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(parameter, other)
    assert pretrained(PRETRAINING.model_copy(update={"seed": 1}), steps=5)[1] != first


@pytest.mark.parametrize(("warmup", "steps"), [(0, 6), (1, 6), (2, 6), (50, 6), (0, 1), (1, 1)])
def test_every_length_of_warm_up_works(warmup: int, steps: int) -> None:
    _, losses = pretrained(PRETRAINING.model_copy(update={"warmup_steps": warmup}), steps=steps)
    assert len(losses) == steps


def test_layers_are_dropped_between_the_borders_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from nested_reft.training import pretrain as module

    dropped: list[tuple[int, ...]] = []
    plain = module.nested_view

    def spy(model: object, layers: list[int]) -> object:
        dropped.append(tuple(layers))
        return plain(model, layers)

    monkeypatch.setattr(module, "nested_view", spy)
    pretrained(PRETRAINING.model_copy(update={"layer_drop": 0.5, "border": 2}), steps=20)
    assert set(dropped) == {(), (2,), (3,), (2, 3)}
    dropped.clear()
    pretrained(PRETRAINING.model_copy(update={"layer_drop": 0.0}), steps=5)
    assert dropped == [()] * 5


def test_targets_are_the_next_tokens_of_the_solution() -> None:
    tokens, targets = _collate([([5, 6], [7, 8, 9]), ([1], [2, 3])])
    assert tokens.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    assert targets.tolist() == [[-100, 7, 8, 9, -100], [2, 3, -100, -100, -100]]


# --- the policy on disk


def test_the_tokenizer_takes_each_word_as_one_token_before_and_after_saving(tmp_path: Path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path, device=CPU)
    words = [*vocabulary(), "answer", ":"]
    text = " ".join(words)
    ids = policy.tokenizer(text)["input_ids"]
    assert len(ids) == len(words) == len(set(ids))
    assert loaded.tokenizer(text)["input_ids"] == ids
    assert loaded.tokenizer.decode(ids) == text
    assert loaded.tokenizer.convert_ids_to_tokens(ids) == words
    assert loaded.tokenizer("12 * 3 -> 36 #### 36")["input_ids"] == [
        ids[words.index(w)] for w in ["12", "*", "3", "->", "36", "####", "36"]
    ]


def test_a_policy_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path, device=CPU)
    assert (loaded.end_ids, loaded.pad_id) == (policy.end_ids, policy.pad_id)
    assert loaded.tokenizer.convert_ids_to_tokens([loaded.pad_id, *loaded.end_ids]) == [PAD, END]
    assert not loaded.model.training
    expected = dict(policy.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens).logits, policy.model(tokens).logits)


def test_a_policy_loads_in_the_dtype_asked_for(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path)
    assert load_policy(tmp_path, device=CPU, dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_folder_that_is_no_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be loaded as a model"):
        load_policy(tmp_path, device=CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DataError, match=r"device: 'cuda' was asked for, but torch sees no GPU.*`device: cpu`"):
        select_device("cuda")
