"""What is asked of a model is held against its positions and its kind, at the start of every job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_training import PROMPT, tiny_policy, tiny_problems, tiny_settings
from torch import Tensor, nn

from nested_reft.config.evaluation import EvaluateSettings
from nested_reft.config.experiment import load_config
from nested_reft.config.gradients import GradientSettings
from nested_reft.config.jobs import evaluate_settings, gradient_settings, throughput_settings
from nested_reft.config.throughput import ThroughputSettings
from nested_reft.data.records import DataError
from nested_reft.evaluation.evaluate import evaluate
from nested_reft.evaluation.gradients import measure_gradients, measure_on_policy
from nested_reft.evaluation.throughput import measure_throughput
from nested_reft.rollouts.lengths import check_policy_lengths
from nested_reft.rollouts.policy import Policy
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.rollouts.samplers import TorchSampler
from nested_reft.training.loop import Job
from nested_reft.training.run import train

CONFIG = load_config(Path(__file__).parents[2] / "config/smoke.yaml")
PROMPTS = encode_prompts([problem.question for problem in tiny_problems()], PROMPT, tiny_policy().tokenizer, 256)
LONGEST = max(map(len, PROMPTS))
ROOM = 256 - LONGEST  # of the 256 positions of a model that is made here


def training(policy: Policy, folder: Path, new_tokens: int) -> None:
    settings = tiny_settings(max_new_tokens=new_tokens, steps=1)
    train(settings, policy, tiny_problems(), Job(folder))


def evaluation(policy: Policy, folder: Path, new_tokens: int) -> None:
    settings: EvaluateSettings = evaluate_settings(CONFIG, "tiny", None, ("heldout",))
    changed = settings.evaluation.model_copy(update={"max_new_tokens": new_tokens, "samples_per_problem": 1})
    evaluate(settings.model_copy(update={"evaluation": changed}), TorchSampler(policy), "heldout", tiny_problems())


def throughput(policy: Policy, folder: Path, new_tokens: int) -> None:
    settings: ThroughputSettings = throughput_settings(CONFIG, "tiny", 17)
    changed = {"throughput": settings.throughput.model_copy(update={"problems": 10, "pairs": 3})}
    measure_throughput(settings.model_copy(update=changed | {"max_new_tokens": new_tokens}), policy, tiny_problems())


def gradients(policy: Policy, folder: Path, new_tokens: int) -> None:
    settings: GradientSettings = gradient_settings(CONFIG, "tiny", 17)
    settings = settings.model_copy(update={"max_new_tokens": new_tokens})
    sets = measure_on_policy(settings, policy, tiny_problems(), lambda batch: None)
    measure_gradients(settings, policy, tiny_problems(), sets, lambda batch: None)


@pytest.mark.parametrize(
    ("job", "key"),
    [
        (training, "training.max_new_tokens"), (evaluation, "evaluation.max_new_tokens"),
        (throughput, "throughput.new_tokens"), (gradients, "training.max_new_tokens"),
    ],
)  # fmt: skip
def test_every_job_refuses_more_tokens_than_positions(
    tmp_path: Path, job: Callable[[Policy, Path, int], None], key: str
) -> None:
    policy = tiny_policy()
    policy.model.config.name_or_path = policy.model.name_or_path = "models/tiny"
    message = (
        rf"^models/tiny: has 256 positions \(max_position_embeddings\), but the longest prompt has {LONGEST} tokens "
        rf"and {key} is {ROOM + 1}, 257 in all; lower it to at most {ROOM}, or use another model$"
    )
    with pytest.raises(DataError, match=message):
        job(policy, tmp_path, ROOM + 1)
    policy.model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    with pytest.raises(DataError, match=rf"has rope_type 'dynamic'.*{key} is {ROOM + 1}"):
        job(policy, tmp_path, ROOM + 1)


def test_as_many_tokens_as_positions_are_allowed() -> None:
    check_policy_lengths(tiny_policy(), PROMPTS, ROOM, "key")
    check_policy_lengths(tiny_policy(), [], 1, "key")


def test_prompts_that_fill_a_model_leave_no_room_to_lower() -> None:
    with pytest.raises(DataError, match="256 tokens and key is 1, 257 in all; leave out the longest problems"):
        check_policy_lengths(tiny_policy(), [[5] * 256], 1, "key")


@pytest.mark.parametrize(
    ("rope_type", "positions", "original"), [("longrope", 256, 64), ("dynamic", 64, None), ("dynamic", 64, 32)]
)
def test_frequencies_that_depend_on_the_length_are_refused_by_name(
    rope_type: str, positions: int, original: int | None
) -> None:
    policy = tiny_policy()
    policy.model.config.rope_parameters = {"rope_type": rope_type, "original_max_position_embeddings": original}
    policy.model.config.max_position_embeddings = positions
    check_policy_lengths(policy, [[5, 6]], 62, "key")
    with pytest.raises(DataError, match=f"has rope_type '{rope_type}'.* beyond 64 tokens.*lower it to at most 62"):
        check_policy_lengths(policy, [[5, 6]], 63, "key")


def test_whatever_else_depends_on_the_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    rotary = type(policy.model.model.rotary_emb)
    forward = rotary.forward

    def scaled(self: nn.Module, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = forward(self, hidden, position_ids)
        return cos * torch.log(position_ids.max() + 2.0), sin * torch.log(position_ids.max() + 2.0)

    with torch.no_grad():
        for layer in policy.model.model.layers:
            layer.self_attn.q_proj.weight.mul_(4)
    check_policy_lengths(policy, PROMPTS, ROOM, "key")
    monkeypatch.setattr(rotary, "forward", scaled)
    with pytest.raises(DataError, match=r"Qwen2ForCausalLM computes for the same \d+ tokens changes by .*lower key"):
        check_policy_lengths(policy, PROMPTS, ROOM, "key")
