"""Nested rollouts in TRL's GRPOTrainer: two lines of a training script change.

Deviations from TRL, on purpose:
- on TRL's own generation the completions come from `engine.sampling` on a nested view, and on its colocated vLLM from
  an engine whose worker leaves out layers; both return the log-probability of each token as it was sampled;
- the correction's weights ride on advantages of shape (B, T), which `_compute_loss` takes as they are. `base` and
  `gspo`, whose gradient flows through the ratio to b, give it b as the old policy;
- evaluation samples from the whole model, without correction;
- TRL's own correction for the sampler is off: nothing is weighed twice;
- a model whose loss would have other log-probabilities than the sampler is refused (`trl_model.py`).
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

try:
    from trl import GRPOTrainer
except ImportError as error:
    raise ImportError("TRL is not installed; run: pip install 'nested-reft[trl]'") from error

from nested_reft.core.corrections import correction_named, importance_weights, log_ratio
from nested_reft.core.diagnostics import off_policy_diagnostics
from nested_reft.core.layer_selection import SELECTIONS, choose_skipped_layers
from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.engine.layer_influence import ablation_influence, influence_of
from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.sampling import sample_completions
from nested_reft.integrations.trl_config import NestedConfig, refuse_settings
from nested_reft.integrations.trl_model import CheckedAtStart, refuse_model

__all__ = ["NestedConfig", "NestedGRPOTrainer"]

LOGGED = ("ess", "kl_k1", "kl_k3", "chi2", "clip_fraction", "ratio_mean", "ratio_max", "ess_sequence")
INFLUENCE_FILE = "nested_influence.json"


class NestedGRPOTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's GRPOTrainer whose training rollouts leave out layers, and whose loss corrects for it.

    The layers are drawn once for each generation batch, from the seed and the trainer's global step: the same in every
    process, and again after a resume. What is drawn and how far b is from the target are in TRL's logs under `nested/`.

    Args:
        args: those of GRPOTrainer.
        nested: how the rollouts are nested; None: the defaults of NestedConfig.
        kwargs: those of GRPOTrainer.

    Raises:
        ValueError: a setting of TRL does not go with nested rollouts, or the model has too few layers for
            `skip_percent`; the message names the key and its value.
    """

    def __init__(self, *args: Any, nested: NestedConfig | None = None, **kwargs: Any) -> None:
        nested = NestedConfig() if nested is None else nested
        given = inspect.signature(GRPOTrainer).bind_partial(*args, **kwargs).arguments
        config = given.get("args")
        if config is not None:
            refuse_settings(nested, config, given)
        self.nested = nested
        self.skipped_layers: tuple[int, ...] = ()  # of the latest rollout
        self._last_draw = (-1, 0)  # global step, number of the draw within it
        self._influence = None if nested.influence is None else torch.tensor(nested.influence, dtype=torch.float64)
        self._weigh_in_loss = False
        self._unweighed: tuple[Mapping[str, Tensor], dict[str, Any]] | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []  # log ratios and masks, (b, T) each
        with _nested_engine() if config is not None and config.use_vllm else nullcontext():
            super().__init__(*args, **kwargs)
        refuse_model(self)
        self.add_callback(CheckedAtStart(self))
        self.vllm_importance_sampling_correction = False
        if nested.correction == "gspo":
            clip = correction_named("gspo").resolve(nested.params)
            self.importance_sampling_level = "sequence"
            self.epsilon_low, self.epsilon_high = clip["clip_low"], clip["clip_high"]

    # --- the rollout

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Completions and their log-probabilities, one row for each prompt of this process."""
        if images:
            raise ValueError("images do not go with nested rollouts, which read text only")
        self.skipped_layers = self._draw(prompt_ids) if self.model.training else ()
        if self.use_vllm:
            from nested_reft.integrations.vllm import nest

            nest(self.vllm_generation.llm, self.skipped_layers)
            generated: tuple[list[list[int]], list[list[float]]] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, *args, **kwargs
            )
            return generated
        # TRL repeats each prompt for its completions. A group can be spread over processes, hence the divisor.
        group_size = math.gcd(*(len(list(same)) for _, same in groupby(prompt_ids)))
        ids, mask = self._padded(prompt_ids[::group_size])
        with self.accelerator.autocast():
            rollout = sample_completions(
                nested_view(self.target_model(), self.skipped_layers).eval(),
                ids,
                mask,
                group_size=group_size,
                max_new_tokens=self.max_completion_length,
                temperature=self.temperature,
                end_ids=self.eos_token_ids,
                pad_id=self._tokenizer.pad_token_id,
                weights=RolloutWeights(self.nested.rollout_precision),
            ).to("cpu")
        rows = list(rollout.mask)
        tokens = [row[real].tolist() for row, real in zip(rollout.tokens, rows, strict=True)]
        return tokens, [row[real].tolist() for row, real in zip(rollout.logp, rows, strict=True)]

    def _draw(self, prompt_ids: list[list[int]]) -> tuple[int, ...]:
        """The layers that this generation batch leaves out; `prompt_ids` are this process's."""
        step, (last_step, last) = self.state.global_step, self._last_draw
        self._last_draw = step, last + 1 if step == last_step else 0  # several if a step has several generation batches
        strategy, model = self.nested.strategy, self.target_model()
        measure = SELECTIONS[strategy].influence_kind
        influence = None
        if measure and self.nested.skip_percent:
            # The prompts of all processes, each once: what is measured must not depend on how they are shared out.
            ids, mask = self._padded([list(prompt) for prompt in dict.fromkeys(map(tuple, gather_object(prompt_ids)))])
            with self.accelerator.autocast():
                if measure == "ablation" and self._influence is None:
                    self._influence = ablation_influence(model, ids, mask)
            influence = influence_of(strategy, model, ids, mask, self._influence)
        skipped = choose_skipped_layers(
            strategy,
            len(decoder_layers(model)),
            self.nested.skip_percent,
            self.nested.border,
            influence=influence,
            batch_seed=_seed(self.args.seed, *self._last_draw),
            run_seed=_seed(self.args.seed),
        )
        if influence is not None:  # equal prompts and weights can round differently on different devices
            (skipped,) = broadcast_object_list([skipped])
        return skipped

    def target_model(self) -> PreTrainedModel:
        """The model that is trained, adapters included, with its class's own forward.

        TRL's fused head and accelerate's autocast replace `forward` on the object, and `nested_view` refuses that. The
        copy shares everything else with the model.
        """
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "get_base_model"):  # PEFT's wrapper; the adapters are inside
            model = model.get_base_model()
        target: PreTrainedModel = copy.copy(model)
        target.__dict__.pop("forward", None)
        return target

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask (P, S) on this process's device, padded on the left."""
        width, pad = max(map(len, prompts)), self._tokenizer.pad_token_id
        rows = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        real = [[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts]
        return torch.tensor(rows, device=self.accelerator.device), torch.tensor(real, device=self.accelerator.device)

    # --- the correction

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's generation batch; in training its old policy, or its advantages, are those of the correction."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        layers = len(decoder_layers(self.target_model()))
        self._log("skipped_layers", len(self.skipped_layers))
        self._log("skipped_share", len(self.skipped_layers) / layers)
        # TRL computes the old policy's log-probabilities only if there are several optimizer steps per generation
        # batch. If not, the old policy is the one of the loss: its forward pass then has what the weights are made of.
        old = output.get("old_per_token_logps")
        self._weigh_in_loss = old is None
        if old is not None:
            output["advantages"] = self._weighed_advantages(output, old)
            self._log_distance()
        if correction_named(self.nested.correction).through_ratio:
            output["old_per_token_logps"] = output["sampling_per_token_logps"]
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss, its advantages weighed as soon as its forward pass is done."""
        if self.model.training and self._weigh_in_loss:
            # TRL reads the advantages after the forward pass. Should it ever read them earlier, None makes it fail.
            weighed = {**inputs, "advantages": None}
            self._unweighed = inputs, weighed
            loss: Tensor = super()._compute_loss(model, weighed)
            if self.accelerator.sync_gradients:
                self._log_distance()
            return loss
        return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._unweighed is not None:
            inputs, weighed = self._unweighed
            self._unweighed = None
            weighed["advantages"] = self._weighed_advantages(inputs, result[0].detach())
        return result

    def _weighed_advantages(self, batch: Mapping[str, Tensor], logp_target: Tensor) -> Tensor:
        """Advantages (B,) times the weights, (B, T); as they are if the gradient flows through the ratio to b.

        The weights are at least 0, so TRL's min(r A, clip(r) A) of weighed advantages is the weighed minimum.
        """
        behavior, mask = batch["sampling_per_token_logps"], batch["completion_mask"].bool()
        advantages = batch["advantages"]
        self._seen.append((log_ratio(logp_target, behavior, mask), mask))
        if correction_named(self.nested.correction).through_ratio or not mask.any():
            return advantages
        weights = importance_weights(
            self.nested.correction, logp_target, behavior, mask, advantages=advantages, **self.nested.params
        )
        return advantages.unsqueeze(1) * weights

    # --- logs and checkpoints

    def _log(self, name: str, value: float) -> None:
        self._metrics["train"][f"nested/{name}"].append(value)

    def _log_distance(self) -> None:
        """Log how far b was from the target on the completions seen since the last call, those of all processes."""
        width = max(mask.shape[1] for _, mask in self._seen)
        parts = [[F.pad(part, (0, width - part.shape[1])) for part in pair] for pair in self._seen]
        self._seen.clear()
        log_rho, mask = (torch.cat(column) for column in zip(*parts, strict=True))
        log_rho, mask = (
            self.accelerator.gather(self.accelerator.pad_across_processes(part, dim=1))
            for part in (log_rho, mask.int())
        )
        if mask.any():
            found = off_policy_diagnostics(
                log_rho, torch.zeros_like(log_rho), mask, clip_low=self.epsilon_low, clip_high=self.epsilon_high
            )
            for name in LOGGED:
                self._log(name, found[name])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self._influence is not None and self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            path = os.path.join(self._get_output_dir(trial=trial), folder, INFLUENCE_FILE)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(self._influence.tolist(), file)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = os.path.join(checkpoint or "", INFLUENCE_FILE)
        if checkpoint and self.nested.influence is None and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self._influence = torch.tensor(json.load(file), dtype=torch.float64)


def _seed(*parts: int) -> int:
    """A 63-bit seed that depends on all parts; the same on every machine."""
    return random.Random("layers " + " ".join(map(str, parts))).getrandbits(63)


@contextmanager
def _nested_engine() -> Iterator[None]:
    """While TRL makes its vLLM engine: with the arguments that nested rollouts need, for which TRL has no settings.

    All but one. TRL's requests leave nothing open that `generation_config` would set, except for the model's end
    tokens: without them a completion would not end where TRL's do.
    """
    import trl.generation.vllm_generation as generation

    from nested_reft.integrations.vllm import engine_arguments

    arguments = {name: value for name, value in engine_arguments().items() if name != "generation_config"}
    made = getattr(generation, "LLM", None)
    if made is None:  # vLLM is not installed, and TRL says so
        yield
        return
    generation.LLM = partial(made, **arguments)
    try:
        yield
    finally:
        generation.LLM = made
