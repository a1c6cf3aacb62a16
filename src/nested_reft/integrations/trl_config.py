"""What a nested run of TRL's GRPOTrainer is told, and the settings of TRL that it refuses, each in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nested_reft.core.corrections import correction_named
from nested_reft.core.layer_selection import SELECTIONS, count_and_eligible
from nested_reft.core.loss import NORMALISATIONS
from nested_reft.engine.layer_weights import RolloutWeights


@dataclass(frozen=True)
class NestedConfig:
    """How the rollouts of a `NestedGRPOTrainer` leave out layers, and how its loss corrects for it.

    Args:
        skip_percent: the share of the model's layers that each training rollout leaves out, in [0, 100); 0 is TRL's own
            training, up to the rounding of the sampler's log-probabilities.
        correction: the weight of behaviour-policy samples, a key of `core.corrections.CORRECTIONS`.
        params: the correction's parameters; what is not given has the default of the registry. `base` has none: its
            clip is GRPOConfig's epsilon and epsilon_high.
        border: so many layers at either end are never left out.
        strategy: how the layers are chosen, a key of `core.layer_selection.SELECTIONS` except `adaptive`.
        influence: (L,) values, the ablation influence of each layer, for the strategies that read it (`least`,
            `least_half`). None: measured once, on the prompts of the first generation batch, and kept in checkpoints.
        rollout_precision: of the rollouts that this package samples, "float32", "bfloat16" or "int8"; None: that of the
            training. With `use_vllm`, vLLM's own settings say it.

    Raises:
        ValueError: a key has no such value; the message names both.
    """

    skip_percent: int = 10
    correction: str = "retrace"
    params: Mapping[str, float] = field(default_factory=dict)
    border: int = 1
    strategy: str = "uniform"
    influence: tuple[float, ...] | None = None
    rollout_precision: str | None = None

    def __post_init__(self) -> None:
        correction = correction_named(self.correction)
        if correction.clip == "update" and self.params:
            raise ValueError(
                f"params {dict(self.params)}: correction '{self.correction}' has none; its clip is GRPOConfig's "
                "epsilon and epsilon_high"
            )
        correction.resolve(self.params)
        count_and_eligible(0, self.skip_percent, self.border)  # their ranges; the model's layers are not known yet
        if self.strategy not in SELECTIONS:
            raise ValueError(f"unknown strategy {self.strategy!r}; possible: {', '.join(SELECTIONS)}")
        if SELECTIONS[self.strategy].adapts:
            raise ValueError(
                f"strategy '{self.strategy}' is not available in TRL; use 'uniform', and lower skip_percent until "
                "nested/ess in the logs is high enough"
            )
        RolloutWeights(self.rollout_precision)  # an unknown one is refused
        if self.influence is not None and SELECTIONS[self.strategy].influence_kind != "ablation":
            raise ValueError(f"influence does nothing with strategy '{self.strategy}', which does not read it")


# Arguments of GRPOTrainer that make its rollouts something else than one completion per prompt.
OTHER_ROLLOUTS = ("tools", "rollout_func", "environment_factory")
IMAGES = {"image", "images"}  # columns that GRPOTrainer reads
UNNORMALISED = "the target would not be renormalised on the tokens that it keeps"
TWICE = "it weighs completions by how far they are off-policy, which the correction does"


def refuse_settings(nested: NestedConfig, args: Any, given: Mapping[str, Any]) -> None:
    """ValueError if TRL cannot train with these settings as `nested` means it.

    Args:
        nested: the nested run.
        args: its GRPOConfig.
        given: the arguments of GRPOTrainer by name.
    """
    sequence_level = nested.correction == "gspo"
    refused = {
        # What the sampler does must be what the log-probabilities of the target are of.
        "top_p": (args.top_p != 1.0, f"{UNNORMALISED}; use 1.0"),
        "top_k": (args.top_k not in (0, -1, None), f"{UNNORMALISED}; use 0"),
        "min_p": (bool(args.min_p), f"{UNNORMALISED}; use None"),
        "repetition_penalty": (args.repetition_penalty != 1.0, "the target has no such penalty; use 1.0"),
        "generation_kwargs": (bool(args.generation_kwargs), "they would change the sampling distribution; use None"),
        "vllm_structured_outputs_regex": (
            args.use_vllm and args.vllm_structured_outputs_regex is not None, f"{UNNORMALISED}; use None",
        ),
        # Which sampler
        "vllm_mode": (
            args.use_vllm and args.vllm_mode == "server",
            "this trainer cannot leave out layers of a server; use 'colocate'",
        ),
        "use_transformers_continuous_batching": (
            args.use_transformers_continuous_batching, "it samples from the whole model; use False",
        ),
        "cast_lm_head_to_fp32": (
            args.cast_lm_head_to_fp32, "it replaces the head's forward, and the sampler would not see it; use False",
        ),
        "use_vllm": (
            args.use_vllm and nested.rollout_precision is not None,
            "vLLM has a precision of its own; use rollout_precision None, and model_init_kwargs={'dtype': ...}",
        ),
        # What is only done to the model when training starts
        "use_liger_kernel": (
            args.use_liger_kernel, "it replaces the forward of modules, and no view can be made of them; use False",
        ),
        "neftune_noise_alpha": (
            args.neftune_noise_alpha is not None, "its noise would be in every importance ratio; use None",
        ),
        # The loss
        "loss_type": (args.loss_type not in NORMALISATIONS, f"use one of {', '.join(NORMALISATIONS)}"),
        "off_policy_mask_threshold": (args.off_policy_mask_threshold is not None, f"{TWICE}; use None"),
        "use_bias_correction_kl": (
            args.use_bias_correction_kl and args.beta != 0 and nested.correction != "base",
            f"with beta {args.beta!r} it weighs the KL term by a ratio that is not the one to the sampler; use False, "
            "or correction 'base'",
        ),
        "importance_sampling_level": (
            args.importance_sampling_level != "token" and not sequence_level,
            f"correction '{nested.correction}' weighs tokens; use 'token', or correction 'gspo'",
        ),
        "epsilon": (
            sequence_level and args.epsilon != type(args).epsilon,
            "correction 'gspo' has its own clip; use NestedConfig(params={'clip_low': ..., 'clip_high': ...})",
        ),
        "epsilon_high": (
            sequence_level and args.epsilon_high is not None,
            "correction 'gspo' has its own clip; use NestedConfig(params={'clip_low': ..., 'clip_high': ...})",
        ),
    }  # fmt: skip
    for key, (bad, reason) in refused.items():
        if bad:
            raise ValueError(f"{key} {getattr(args, key)!r} does not go with nested rollouts: {reason}")
    for key in OTHER_ROLLOUTS:
        if given.get(key):
            raise ValueError(f"{key} does not go with nested rollouts, which are one completion per prompt; use None")
    for key in ("train_dataset", "eval_dataset"):
        for column in IMAGES & set(getattr(given.get(key), "column_names", None) or ()):
            raise ValueError(f"{key} with a column {column!r} does not go with nested rollouts, which read text only")
