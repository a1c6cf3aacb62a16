"""Hybrid models, whose layers mostly have a state in place of keys and values: sampled as any other."""

from __future__ import annotations

import pytest
import torch
from tiny_models import HYBRIDS, padded_prompts, rebuilt_without, tiny_model

from nested_reft.core.layers import nested_view
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.sampling import sample_completions


# Layer 2 is the only one with keys and values.
@pytest.mark.parametrize("skipped", [(), (2,), (1, 3), (0, 1, 3, 4)], ids=str)
@pytest.mark.parametrize("kind", HYBRIDS)
def test_log_probabilities_are_those_of_a_model_of_the_kept_layers(kind: str, skipped: tuple[int, ...]) -> None:
    """Of padded prompts while rows end; against one unpadded row at a time, read at once."""
    view = nested_view(tiny_model(kind), skipped)
    rebuilt = rebuilt_without(tiny_model(kind), skipped)
    prompt_ids, prompt_mask = padded_prompts((5, 1, 6))
    rollout = sample_completions(
        view, prompt_ids, prompt_mask, group_size=4, max_new_tokens=10, temperature=1.0, end_ids=(1, 2, 3), pad_id=0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert len(set(rollout.mask.sum(-1).tolist())) > 2
    for row, (tokens, real) in enumerate(zip(rollout.tokens, rollout.mask, strict=True)):
        prompt = prompt_ids[row // 4][prompt_mask[row // 4]]
        text = torch.cat((prompt, tokens[real]))
        with torch.no_grad():
            log_probs = torch.log_softmax(rebuilt(input_ids=text.unsqueeze(0), use_cache=False).logits[0], dim=-1)
        expected = log_probs[len(prompt) - 1 : -1].gather(-1, tokens[real].unsqueeze(-1)).squeeze(-1)
        assert (rollout.logp[row][real] - expected).abs().max() < 1e-4
    with torch.no_grad():
        logp = completion_logp(view, rollout, 1.0)
    assert (logp - rollout.logp)[rollout.mask].abs().max() < 1e-4
