"""The settings of the method that its registries hold: corrections, and layer-selection strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from nested_reft.config.errors import nearest, shortened
from nested_reft.config.strict import Percent, Positive, Strict
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.layer_selection import SELECTIONS, num_skipped


def _name_in(registry: Mapping[str, Any]) -> Callable[[str], str]:
    """A check that a name is in the registry as it is now, not as it was when this module was imported."""

    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(f"unknown value {shortened(name)}, {nearest(name, registry)}")
        return name

    return check


def _names_of(registry: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda schema: schema.update(enum=list(registry))


Correction = Annotated[str, AfterValidator(_name_in(CORRECTIONS)), Field(json_schema_extra=_names_of(CORRECTIONS))]
# How the skipped layers are chosen; `core/layer_selection.py` has the formulas.
Strategy = Annotated[str, AfterValidator(_name_in(SELECTIONS)), Field(json_schema_extra=_names_of(SELECTIONS))]


def _without_nulls(params: Any) -> Any:
    """Drop null parameters, so that they get their defaults."""
    if not isinstance(params, Mapping):
        return params
    return {key: value for key, value in params.items() if value is not None}


def _with_defaults(corrections: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Every parameter of every correction, so that spelling out a default changes nothing."""
    for name, params in corrections.items():
        known = CORRECTIONS[name].parameters
        for key, value in params.items():
            if key not in known:
                hint = nearest(key, known) if known else f"'{name}' has no parameters"
                raise ValueError(f".{name}.{key}: unknown key, {hint}")
            if CORRECTIONS[name].clip == "update":
                raise ValueError(f".{name}.{key}: set training.update_{key} instead, which is for all corrections")
            if not known[key].within(value):
                raise ValueError(f".{name}.{key}: must be {known[key].range}, got {value}")
    return {name: CORRECTIONS[name].resolve(params, own=True) for name, params in corrections.items()}


# Corrections with their parameters, from the registry, with defaults filled in.
Corrections = Annotated[
    dict[Correction, Annotated[dict[str, float], BeforeValidator(_without_nulls)]],
    Field(min_length=1),
    AfterValidator(_with_defaults),
]


class RunCorrection(Strict, extra="allow"):
    """A correction of the nested runs, with its parameters."""

    # The parameters of all corrections are in their registry.
    __pydantic_extra__: dict[str, float]
    skips: tuple[Percent, ...] | None = Field(None, min_length=1)
    """The skips that it is run at, some of the top-level `skips`; null: all of them."""

    @field_validator("skips")
    @classmethod
    def _are_nested(cls, skips: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if len(set(skips or ())) != len(skips or ()):
            raise ValueError(f"has a value twice: {list(skips or ())}")
        if 0 in (skips or ()):
            raise ValueError("has 0, the baseline, which is always run; remove it")
        return skips

    @property
    def params(self) -> dict[str, float]:
        return self.__pydantic_extra__


def _runs_with_defaults(corrections: dict[str, RunCorrection]) -> dict[str, RunCorrection]:
    resolved = _with_defaults({name: correction.params for name, correction in corrections.items()})
    return {name: RunCorrection(skips=corrections[name].skips, **params) for name, params in resolved.items()}


RunCorrections = Annotated[
    dict[Correction, Annotated[RunCorrection, BeforeValidator(_without_nulls)]],
    Field(min_length=1),
    AfterValidator(_runs_with_defaults),
]


def read_ablation(strategies: Iterable[Strategy]) -> bool:
    """Whether one of these strategies reads the ablation influence of the layers."""
    return any(SELECTIONS[name].influence_kind == "ablation" for name in strategies)


class LayerChoice(Strict):
    """Layer-selection strategies: how the skipped layers are chosen."""

    strategies: tuple[Strategy, ...] = Field(("uniform",), min_length=1)
    """All runs use the first; the others are compared with it in one cell of the grid; no value twice.
    `core/layer_selection.py` has the formulas; `uniform` is our reading of the paper's "dynamic layer skipping
    per batch"."""
    skip: Percent | None = None
    """The skip setting of the comparison, one of `skips`; required with more than one strategy."""
    correction: Correction | None = None
    """The correction of the comparison, one of `corrections`; required with more than one strategy."""
    influence_problems: Positive = 64
    """For `least_half` and `least`: ablation influence is measured before training, on the prompts alone of so many
    problems of the first data set; on all if it has fewer."""
    target_ess: Annotated[float, Field(gt=0, le=1)] = 0.5
    """For `adaptive`: the effective sample size to keep, of a batch's tokens and as a share of them. The number of
    skipped layers starts at 1. It rises by 1 if the mean is at or above this, up to the k of `skip`; it falls by 1, but
    not below 1, if the mean is below this, or a single batch below half of it."""
    ess_batches: Positive = 3
    """For `adaptive`: the mean is that of so many last batches, all with the same number of skipped layers. A number
    that failed is tried again after four times as many."""

    @model_validator(mode="after")
    def _a_comparison_has_a_cell(self) -> LayerChoice:
        if len(set(self.strategies)) != len(self.strategies):
            raise ValueError(f"strategies: has a value twice: {list(self.strategies)}")
        if SELECTIONS[first := self.strategies[0]].adapts:
            raise ValueError(
                f"strategies: '{first}' cannot be the first, which all runs and `gradients` use at a fixed skip; "
                "put it after another, such as uniform"
            )
        for key in ("skip", "correction"):
            if len(self.strategies) > 1 and not getattr(self, key):
                raise ValueError(f"{key}: is missing; it says where {' and '.join(self.strategies)} are compared")
        return self


def check_layers(
    size: str, layers: int, skip: int, border: int, choice: LayerChoice, measured: Sequence[Strategy]
) -> None:
    """ValueError if so many percent of a model's layers cannot be left out: in its runs, or of what is `measured`."""
    count, eligible = num_skipped(layers, skip), max(layers - 2 * border, 0)
    if count > eligible:
        raise ValueError(
            f"skips: {skip} % of the {layers} layers of '{size}' is {count}, but border {border} leaves only "
            f"{eligible} that may be skipped; lower the skip or the border"
        )
    in_runs = choice.strategies[:1] if skip != choice.skip else choice.strategies
    for key, strategy in [("layer_choice", name) for name in in_runs] + [("nestability", name) for name in measured]:
        if count > (most := SELECTIONS[strategy].max_count(eligible)):
            raise ValueError(
                f"{key}: {skip} % of the {layers} layers of '{size}' is {count}, but '{strategy}' can leave "
                f"out only {most} of the {eligible} that border {border} leaves; lower the skip or the border"
            )
