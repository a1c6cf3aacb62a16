"""Logits over a large vocabulary are made in pieces: the numbers and gradients are those of the whole."""

from __future__ import annotations

import pytest
import torch
from tiny_models import padded_prompts, tiny_model
from torch import Tensor

from nested_reft.core.rollout import Rollout
from nested_reft.engine import logp
from nested_reft.engine.sampling import sample_completions


def logp_and_gradients(rollout: Rollout) -> tuple[Tensor, list[Tensor], int]:
    """log pi, the gradients of a weighted sum, and the most rows that the head was given at once."""
    model = tiny_model("qwen2", tie_word_embeddings=True)
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    values = logp.completion_logp(model, rollout, 0.7)
    (values * torch.arange(values.numel()).view_as(values)).sum().backward()
    return (
        values.detach(),
        [parameter.grad for parameter in model.parameters() if parameter.grad is not None],
        max(rows),
    )


@pytest.mark.parametrize("top_k", [None, 6])
def test_pieces_give_what_the_whole_gives(top_k: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = sample_completions(
        tiny_model("qwen2"), *padded_prompts((5, 1, 6)), group_size=3, max_new_tokens=7, temperature=0.7, top_k=top_k,
        end_ids=(1, 2), pad_id=0, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    whole, gradients, rows = logp_and_gradients(rollout)
    assert rows == 3 + int(rollout.mask[:, 1:].sum())
    monkeypatch.setattr(logp, "MAX_LOGITS", 4 * 23)
    pieces, of_pieces, rows = logp_and_gradients(rollout)
    assert rows == 4
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)
    for one, other in zip(of_pieces, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
