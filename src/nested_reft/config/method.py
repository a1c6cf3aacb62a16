"""The settings of the method: corrections, layer choice, training, evaluation and the measurements."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from nested_reft.config.strict import Positive, Strict

Correction = Literal[
    "base", "unit", "retrace", "retrace_trace", "is_token", "is_sequence", "tis_token", "tis_sequence",
    "mask_token", "mask_sequence", "gspo", "topr",
]  # fmt: skip
CORRECTIONS: tuple[str, ...] = get_args(Correction)
# Which parameters each formula has; `core.corrections` holds their defaults.
CORRECTION_PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CORRECTIONS, ()),
    **dict.fromkeys(("base", "gspo"), ("clip_low", "clip_high")),
    **dict.fromkeys(("retrace", "retrace_trace"), ("lambda",)),
    **dict.fromkeys(("tis_token", "tis_sequence"), ("C",)),
    **dict.fromkeys(("mask_token", "mask_sequence"), ("lo", "hi")),
}
# The baseline is not a trainer of its own: it is this correction at skip 0, where the ratio is 1.
BASELINE_CORRECTION: Correction = "base"
PRETRAINED = "pretrained"

# How the skipped layers are chosen; `core.strategies` has the formulas.
Strategy = Literal["uniform", "contiguous", "alternate", "static", "influence"]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Percent = Annotated[int, Field(ge=0, lt=100)]


class Prompt(Strict):
    """`plain` ends the question with `suffix`; `chat` applies the model's own chat template with `system`."""

    style: Literal["plain", "chat"]
    system: str | None = None
    suffix: str = ""


class CorrectionParams(Strict):
    """Parameters of a correction; only those of CORRECTION_PARAMETERS may be given (checked by `Corrections`)."""

    lambda_: Annotated[float, Field(gt=0, le=1)] | None = Field(None, alias="lambda")
    C: Annotated[float, Field(gt=0)] | None = None
    lo: Annotated[float, Field(ge=0)] | None = None
    hi: Annotated[float, Field(gt=0)] | None = None
    clip_low: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip_high: Annotated[float, Field(gt=0)] | None = None

    def given(self) -> dict[str, float]:
        """The parameters that were set, under the names of the formulas."""
        return self.model_dump(by_alias=True, exclude_none=True)


def _check_corrections(corrections: dict[Correction, CorrectionParams]) -> dict[Correction, CorrectionParams]:
    for correction, params in corrections.items():
        for key in params.given():
            if key not in CORRECTION_PARAMETERS[correction]:
                known = ", ".join(CORRECTION_PARAMETERS[correction]) or "none"
                raise ValueError(f"{correction}.{key}: '{correction}' has no such parameter; it has: {known}")
        if params.lo is not None and params.hi is not None and params.lo > params.hi:
            raise ValueError(f"{correction}.lo: {params.lo} is above hi: {params.hi}")
    return corrections


Corrections = Annotated[dict[Correction, CorrectionParams], Field(min_length=1), AfterValidator(_check_corrections)]


class Sampling(Strict):
    """What completions are drawn from: the softmax of the logits over `temperature`, or its most probable tokens."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


class Alarms(Strict):
    """Where a step's off-policyness leaves the sane range; null switches an alarm off."""

    ess_below: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    kl_above: Annotated[float, Field(gt=0)] | None = 0.2


class LayerChoice(Strict):
    """Ways to choose the skipped layers: the first for all runs, the others for comparison in one cell of the grid."""

    strategies: tuple[Strategy, ...] = Field(("uniform",), min_length=1)
    skip: Percent | None = None
    correction: Correction | None = None

    @model_validator(mode="after")
    def _a_comparison_has_a_cell(self) -> LayerChoice:
        if len(set(self.strategies)) != len(self.strategies):
            raise ValueError(f"strategies: has a value twice: {list(self.strategies)}")
        for key in ("skip", "correction"):
            if len(self.strategies) > 1 and not getattr(self, key):
                raise ValueError(f"{key}: is missing; it says where {' and '.join(self.strategies)} are compared")
        return self


class Training(Sampling):
    """One reinforced fine-tuning run; the same for the baseline and for every nested run."""

    steps: Positive
    problems_per_step: Positive
    completions_per_problem: Annotated[int, Field(ge=2)]
    max_new_tokens: Positive
    max_prompt_tokens: Positive = 1024
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    advantage_baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    advantage_std: bool = True
    normalisation: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = "grpo"
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    updates_per_rollout: Positive = 1
    update_clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    update_clip_high: Annotated[float, Field(gt=0)] = 0.2
    border: Annotated[int, Field(ge=0)] = 1
    problems_per_micro_batch: Positive | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: Positive = 10
    alarms: Alarms = Alarms()


class Evaluation(Sampling):
    """Greedy and sampled accuracy; `headline` says which of the two the claims are about.

    `benchmarks_per_job` above 1 spares small models the start-up of a process for each benchmark.
    """

    samples_per_problem: Positive
    max_new_tokens: Positive
    max_prompt_tokens: Positive = 1024
    batch_problems: Positive = 64
    benchmarks_per_job: Positive = 1
    headline: Literal["greedy", "sampled"] = "sampled"
    parity_margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    seed: int = 0


class Throughput(Strict):
    """Paired, interleaved timing of rollouts; every completion has exactly `new_tokens` tokens."""

    problems: Positive
    completions_per_problem: Positive
    new_tokens: Positive
    pairs: Annotated[int, Field(ge=3)] = 9
    warmup_pairs: Positive = 1
    seed: int = 0


class GradientMeasurement(Strict):
    """Bias and variance of the gradient estimates of a pre-trained model, against on-policy ones.

    Every batch has `problems_per_batch` problems and its own draw of layers. Gradients are compared at `coordinates`
    parameters, drawn once (all, where the model has no more).
    """

    corrections: Corrections
    batches: Annotated[int, Field(ge=4)]
    problems_per_batch: Positive
    completions_per_problem: Annotated[int, Field(ge=2)]
    coordinates: Positive = 250_000
    seed: int = 0


class Gradients(GradientMeasurement):
    """The measurement, and how it is judged: another judgement measures nothing again.

    A correction passes as unbiased with a relative bias up to `bias_margin`, and its variance as controlled up to
    `variance_limit` times the on-policy estimate's.
    """

    bias_margin: Annotated[float, Field(gt=0)] = 0.1
    variance_limit: Annotated[float, Field(ge=1)] = 2.0
