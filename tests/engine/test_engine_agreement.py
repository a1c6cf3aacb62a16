"""Whether sampler and trainer agree is found on a few tokens, and so is what in a model is random."""

from __future__ import annotations

import pytest
import torch
from tiny_models import HYBRIDS, KINDS, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from nested_reft.core.layers import nested_view
from nested_reft.engine.agreement import AgreementError, RandomnessError, check_agreement, trial_rollout
from nested_reft.engine.logp import completion_logp


def check(model: PreTrainedModel) -> None:
    rollout = trial_rollout(nested_view(model, ()).eval())
    check_agreement(model, rollout, lambda part: completion_logp(model, part, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*KINDS, *HYBRIDS])
def test_a_model_that_is_not_random_agrees_in_training_mode(kind: str, dtype: torch.dtype) -> None:
    model = tiny_model(kind).to(dtype).train()
    before = torch.get_rng_state()
    check(model)
    assert torch.equal(torch.get_rng_state(), before), "what follows must not depend on the check"


class Noise(nn.Embedding):
    """With noise in training mode, which no setting of the model names."""

    def forward(self, ids: Tensor) -> Tensor:
        hidden = super().forward(ids)
        return hidden + 0.1 * torch.randn_like(hidden) if self.training else hidden


def noisy() -> PreTrainedModel:
    model = tiny_model().train()
    model.model.embed_tokens = Noise(23, 16)
    return model


RANDOM = {
    "attention": (
        lambda: tiny_model("qwen2", attention_dropout=0.2).train(),
        r"^attention_dropout 0.2: model.layers.0.self_attn \(Qwen2Attention\) draws random numbers .*; use 0$",
    ),
    "jitter": (
        lambda: tiny_model("mixtral", router_jitter_noise=0.3).train(),
        r"^router_jitter_noise 0.3: model.layers.0.mlp \(MixtralSparseMoeBlock\) draws random numbers .*; use 0$",
    ),
    "embedding": (noisy, r"^model.embed_tokens \(Noise\) draws random numbers in training mode, noise in every"),
}


@pytest.mark.parametrize("case", RANDOM)
def test_what_is_random_in_training_mode_is_named(case: str) -> None:
    make, message = RANDOM[case]
    model = make()
    with pytest.raises(RandomnessError, match=message) as caught:
        check(model)
    assert "\n" not in str(caught.value)
    hooks = nn.modules.module
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    check(model.eval())


def test_numbers_that_are_drawn_for_nothing_do_no_harm() -> None:
    """Some adapters and models compare a random number with a share of 0."""
    model = tiny_model().train()
    model.model.norm.register_forward_hook(lambda module, args, output: output if torch.rand(()) >= 0 else None)
    check(model)


def test_other_log_probabilities_than_the_sampler_s_are_refused() -> None:
    model = tiny_model()
    rollout = trial_rollout(model)
    with pytest.raises(
        AgreementError, match=r"^log-probabilities of Qwen2ForCausalLM .* differ by 0\.\d+ nats per tok"
    ):
        check_agreement(model, rollout, lambda part: completion_logp(model, part, 1.2))


def test_a_model_that_cannot_be_sampled_is_refused_with_the_reason() -> None:
    with pytest.raises(
        AgreementError, match=r"^MiniMaxForCausalLM cannot be sampled token by token .*cache of its own"
    ):
        check(tiny_model("minimax"))
