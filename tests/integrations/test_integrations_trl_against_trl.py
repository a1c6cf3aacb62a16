"""Where TRL can do the same by itself, it does: skip 0, and its own corrections for the sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_trl import LAYERS, GRPOTrainer, NestedConfig, config, trainer_of
from torch import Tensor


def replaying(batches: list[dict[str, Tensor]], *, with_logps: bool) -> type:
    """TRL's trainer with these completions for its own, and with the sampler's log-probabilities as from vLLM."""

    class Replaying(GRPOTrainer):  # type: ignore[misc, valid-type]
        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            batch = batches[self.__dict__.setdefault("replayed", 0)]
            self.replayed += 1
            rows = list(batch["completion_mask"].bool())
            tokens = [ids[row].tolist() for ids, row in zip(batch["completion_ids"], rows, strict=True)]
            logps = [logp[row].tolist() for logp, row in zip(batch["sampling_per_token_logps"], rows, strict=True)]
            return tokens, logps if with_logps else None

    return Replaying


@pytest.mark.parametrize("correction", ["base", "unit", "retrace"])
def test_skip_0_is_trl_s_training(tmp_path: Path, correction: str) -> None:
    """In float64, so that only the sampler's log-probabilities, which TRL keeps in float32, differ."""
    args = config(tmp_path, max_steps=5, loss_type="dapo")
    nested, _ = trainer_of(args, NestedConfig(skip_percent=0, correction=correction), model=tiny_model().double())
    start = {name: tensor.clone() for name, tensor in nested.model.state_dict().items()}
    nested.train()
    assert all(skipped == () for skipped, _ in nested.batches)
    replayed = replaying([batch for _, batch in nested.batches], with_logps=False)
    plain, _ = trainer_of(args, None, base=replayed, model=tiny_model().double())
    plain.train()
    assert plain.replayed == 5
    after, expected = nested.model.state_dict(), plain.model.state_dict()
    assert max((expected[name] - tensor).abs().max() for name, tensor in start.items()) > 0.01
    for name, tensor in expected.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("correction", "params", "mode", "low", "high"),
    [
        ("retrace", {}, "token_truncate", None, 1.0),
        ("tis_token", {"C": 1.5}, "token_truncate", None, 1.5),
        ("tis_sequence", {"C": 1.1}, "sequence_truncate", None, 1.1),
        ("mask_token", {"lo": 0.6, "hi": 1.5}, "token_mask", 0.6, 1.5),
        ("mask_sequence", {"lo": 0.1, "hi": 2.0}, "sequence_mask", 0.1, 2.0),
        ("is_token", {}, "token_truncate", None, 1e9),
        ("is_sequence", {}, "sequence_truncate", None, 1e9),
    ],
)
def test_trl_s_correction_for_its_sampler_is_one_of_ours(
    tmp_path: Path, correction: str, params: dict[str, float], mode: str, low: float | None, high: float | None
) -> None:
    """What docs/trl.md says: TRL's modes and caps, by the gradients of one step on the same nested rollout."""
    args = config(
        tmp_path, max_steps=1, vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )  # fmt: skip
    nested, ours = trainer_of(args, NestedConfig(40, correction, params), model=tiny_model(layers=LAYERS).double())
    nested.train()
    replayed = replaying([batch for _, batch in nested.batches], with_logps=True)
    plain, theirs = trainer_of(args, None, base=replayed, model=tiny_model(layers=LAYERS).double())
    plain.use_vllm = True  # what it does with vLLM's log-probabilities, which are replayed
    plain.train()
    (found,), (expected,) = ours.gradients, theirs.gradients
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * max(largest.item(), 1.0))
