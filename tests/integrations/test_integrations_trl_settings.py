"""The settings of a nested run of TRL, and what it logs. What it refuses of TRL's is in `..._refused.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_trl import LAYERS, NestedConfig, NestedGRPOTrainer, config, integration, reward, tokenizer, trainer_of

from nested_reft.core.diagnostics import off_policy_diagnostics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"skip_percent": 100}, r"skip_percent must be in \[0, 100\), got 100"),
        ({"border": -1}, "border must not be negative, got -1"),
        ({"correction": "retrase"}, "unknown correction 'retrase'; possible: base, unit, retrace"),
        ({"params": {"C": 2.0}}, "correction 'retrace' has no parameter 'C'; it has: lambda"),
        ({"params": {"lambda": 2.0}}, r"lambda must be in \(0, 1\], got 2.0"),
        ({"correction": "base", "params": {"clip_low": 0.1}}, "its clip is GRPOConfig's epsilon and epsilon_high"),
        ({"strategy": "unifrom"}, "unknown strategy 'unifrom'; possible: uniform"),
        ({"strategy": "adaptive"}, "strategy 'adaptive' is not available in TRL; use 'uniform', and lower skip_perc"),
        ({"influence": (0.1, 0.2)}, "influence does nothing with strategy 'uniform'"),
    ],
)
def test_a_bad_nested_config_is_an_error_that_names_it(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NestedConfig(**arguments)


def test_the_model_s_layers_must_suffice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="skip_percent 60 leaves out 3 of 5 layers, but border 2 leaves only 1"):
        trainer_of(config(tmp_path), NestedConfig(skip_percent=60, border=2))
    with pytest.raises(ValueError, match=r"influence must be \(5,\), got \(2,\)"):
        trainer_of(config(tmp_path), NestedConfig(skip_percent=40, strategy="least", influence=(0.1, 0.2)))


def test_without_trl_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['trl'] = None; import nested_reft.integrations.trl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: TRL is not installed; run: pip install 'nested-reft[trl]'"


def test_trl_s_own_settings_are_left_as_they_were(tmp_path: Path) -> None:
    """Two lines of a script change: the config is not written to, so that it can be used again."""
    args = config(tmp_path)
    before = args.to_dict()
    trainer, _ = trainer_of(args, NestedConfig(correction="gspo"))
    assert args.to_dict() == before
    assert not trainer.vllm_importance_sampling_correction
    assert trainer.importance_sampling_level == "sequence"
    assert (trainer.epsilon_low, trainer.epsilon_high) == (3e-4, 4e-4)


def test_arguments_by_position_are_read_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^top_p 0\.5"):
        NestedGRPOTrainer(tiny_model(), reward, config(tmp_path, top_p=0.5))
    dataset = trainer_of(config(tmp_path), None)[0].train_dataset
    trainer = NestedGRPOTrainer(tiny_model(layers=LAYERS), reward, config(tmp_path), dataset, None, tokenizer())
    assert trainer.nested == NestedConfig(skip_percent=10, correction="retrace")


@pytest.mark.parametrize("changes", [{}, {"num_iterations": 2}, {"gradient_accumulation_steps": 2}], ids=str)
def test_the_logs_say_what_was_skipped_and_how_far_b_is(tmp_path: Path, changes: dict[str, int]) -> None:
    """Of every rollout once, over all its micro-batches: the logged values are those of the whole batch."""
    distances: list[tuple[Any, ...]] = []
    weigh = NestedGRPOTrainer._weighed_advantages

    def spy(self: Any, batch: Any, target: torch.Tensor) -> torch.Tensor:
        distances.append((target, batch["sampling_per_token_logps"], batch["completion_mask"]))
        return weigh(self, batch, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NestedGRPOTrainer, "_weighed_advantages", spy)
        trainer, recorder = trainer_of(config(tmp_path, max_steps=1, **changes), NestedConfig(skip_percent=40))
        trainer.train()
    first = recorder.logs[0]
    assert first["nested/skipped_layers"] == 2
    assert first["nested/skipped_share"] == pytest.approx(2 / LAYERS)
    assert len(distances) == changes.get("gradient_accumulation_steps", 1)
    whole = off_policy_diagnostics(*(torch.cat(part) for part in zip(*distances, strict=True)))
    named = {name.removeprefix("nested/") for name in first if name.startswith("nested/")}
    assert named == {"skipped_layers", "skipped_share", *integration.LOGGED}
    assert {"ess", "kl_k1", "kl_k3", "clip_fraction"} <= named
    for name in integration.LOGGED:
        assert first[f"nested/{name}"] == pytest.approx(whole[name], rel=1e-6), name
    assert first["nested/ess"] < 0.95


@pytest.mark.parametrize("changes", [{"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_trl_s_defaults_work(tmp_path: Path, changes: dict[str, bool]) -> None:
    """Autocast in bfloat16, and layers that compute twice: what GRPOConfig has if nothing is said."""
    trainer, recorder = trainer_of(config(tmp_path, **changes), NestedConfig(skip_percent=40))
    trainer.train()
    assert len(trainer.batches) == 2
    assert all(torch.isfinite(torch.tensor(row["nested/ess"])) for row in recorder.logs[:2])
