"""What a nested run of TRL accepts, what it refuses in one line, and what it logs."""

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


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("top_p", 0.9, "the target would not be renormalised on the tokens that it keeps; use 1.0"),
        ("top_k", 5, "the target would not be renormalised on the tokens that it keeps; use 0"),
        ("min_p", 0.1, "the target would not be renormalised on the tokens that it keeps; use None"),
        ("repetition_penalty", 1.1, "the target has no such penalty; use 1.0"),
        ("generation_kwargs", {"no_repeat_ngram_size": 2}, "they would change the sampling distribution; use None"),
        ("use_transformers_continuous_batching", True, "it samples from the whole model; use False"),
        ("cast_lm_head_to_fp32", True, "it replaces the head's forward"),
        ("loss_type", "cispo", "use one of grpo, dr_grpo, bnpo, dapo"),
        ("off_policy_mask_threshold", 0.5, "it weighs completions by how far they are off-policy"),
        ("importance_sampling_level", "sequence", "correction 'retrace' weighs tokens; use 'token', or correction"),
    ],
)
def test_a_setting_of_trl_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, key: str, value: Any, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^{key} .* does not go with nested rollouts: {reason}") as caught:
        trainer_of(config(tmp_path, **{key: value}), NestedConfig())
    assert "\n" not in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_vllm_server_and_structured_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vllm_mode 'server' .* leave out layers of a server; use 'colocate'"):
        trainer_of(config(tmp_path, use_vllm=True, vllm_mode="server"), NestedConfig())
    with pytest.raises(ValueError, match=r"vllm_structured_outputs_regex 'a' .* not be renormalised"):
        trainer_of(config(tmp_path, use_vllm=True, vllm_structured_outputs_regex="a"), NestedConfig())


@pytest.mark.parametrize("changes", [{"epsilon": 0.1}, {"epsilon_high": 0.3}], ids=str)
def test_gspo_has_its_own_clip(tmp_path: Path, changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"correction 'gspo' has its own clip; use NestedConfig\(params="):
        trainer_of(config(tmp_path, **changes), NestedConfig(correction="gspo"))


@pytest.mark.parametrize("key", ["tools", "rollout_func", "environment_factory"])
def test_other_rollouts_are_refused(tmp_path: Path, key: str) -> None:
    def other() -> None:
        """Never called."""

    with pytest.raises(ValueError, match=f"^{key} does not go with nested rollouts"):
        trainer_of(config(tmp_path), NestedConfig(), **{key: [other]})


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
