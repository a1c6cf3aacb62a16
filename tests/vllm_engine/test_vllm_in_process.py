"""vLLM in this process samples from the nested view: its log-probabilities are those that transformers computes."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedModel
from vllm_harness import (
    KINDS,
    LAYERS,
    SKIPS,
    TOLERANCE,
    logp_error,
    make_engine,
    move_weights,
    prompts,
    sample,
    save_model,
)

from nested_reft.core.layers import nested_view
from nested_reft.integrations.vllm import load_weights, nest
from nested_reft.integrations.vllm_worker import set_skipped

pytest.importorskip("vllm.sampling_params", reason="vLLM is not installed: make test-vllm")

WRONG = 0.01  # a hundred times the tolerance: another model's log-probabilities


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """An engine and its model."""
    folder = tmp_path_factory.mktemp(request.param)
    model = save_model(request.param, folder)
    return make_engine(folder), model


@pytest.fixture
def llm(made: tuple[Any, Any]) -> Any:
    """The engine, with all its layers."""
    nest(made[0], ())
    return made[0]


@pytest.fixture
def model(made: tuple[Any, Any]) -> PreTrainedModel:
    return made[1]


@pytest.mark.parametrize("skipped", SKIPS)
def test_log_probabilities_are_those_of_the_nested_view(
    llm: Any, model: PreTrainedModel, skipped: tuple[int, ...]
) -> None:
    nest(llm, skipped)
    completions = sample(llm)
    assert logp_error(nested_view(model, skipped), completions) < TOLERANCE
    if skipped:
        assert logp_error(model, completions) > WRONG, "the layers must matter"


def test_each_switch_replaces_the_one_before(llm: Any, model: PreTrainedModel) -> None:
    for skipped in ((1, 2), (2, 6), ()):
        nest(llm, skipped)
        assert logp_error(nested_view(model, skipped), sample(llm)) < TOLERANCE


def test_without_dropping_the_prefix_cache_the_numbers_are_wrong(llm: Any, model: PreTrainedModel) -> None:
    sample(llm)
    llm.apply_model(lambda inner: set_skipped(inner, (2, 5)))
    assert logp_error(nested_view(model, (2, 5)), sample(llm)) > WRONG
    nest(llm, (2, 5))
    assert logp_error(nested_view(model, (2, 5)), sample(llm)) < TOLERANCE


def test_after_an_update_they_are_those_of_the_new_weights(llm: Any, model: PreTrainedModel) -> None:
    nest(llm, (2, 5))
    for seed in (1, 2):
        old = sample(llm)
        move_weights(model, 0.02, seed)
        assert logp_error(nested_view(model, (2, 5)), old) > WRONG, "the update must matter"
        load_weights(llm, model.named_parameters())
        assert logp_error(nested_view(model, (2, 5)), sample(llm)) < TOLERANCE
    nest(llm, ())
    assert logp_error(model, sample(llm)) < TOLERANCE


def test_weights_that_do_not_fit_are_refused_and_change_nothing(llm: Any, model: PreTrainedModel) -> None:
    weights = dict(model.named_parameters())
    name = "model.layers.3.self_attn.q_proj.weight"
    with pytest.raises(ValueError, match=f"have no '{name}'"):
        load_weights(llm, [(key, value) for key, value in weights.items() if key != name])
    with pytest.raises(ValueError, match="has shape"):
        load_weights(llm, {**weights, name: weights[name][:-1]}.items())
    assert logp_error(model, sample(llm)) < TOLERANCE


@pytest.mark.parametrize(
    ("skipped", "reason"),
    [
        ((3, LAYERS), f"skipped has \\[{LAYERS}\\], but"),
        ((-1,), "skipped has \\[-1\\]"),
        (range(LAYERS), "every layer"),
    ],
)
def test_layers_that_cannot_be_left_out_are_refused_and_change_nothing(
    llm: Any, model: PreTrainedModel, skipped: tuple[int, ...], reason: str
) -> None:
    nest(llm, (2, 5))
    with pytest.raises(ValueError, match=reason):
        nest(llm, skipped)
    assert logp_error(nested_view(model, (2, 5)), sample(llm)) < TOLERANCE


def test_nothing_is_switched_under_running_requests(llm: Any, model: PreTrainedModel) -> None:
    import vllm

    llm.llm_engine.add_request("0", {"prompt_token_ids": prompts()[0]}, vllm.SamplingParams(max_tokens=3))
    for switch in (lambda: nest(llm, (1,)), lambda: load_weights(llm, model.named_parameters())):
        with pytest.raises(RuntimeError, match="requests are still running"):
            switch()
        llm.llm_engine.step()
    while llm.llm_engine.has_unfinished_requests():
        llm.llm_engine.step()
    nest(llm, (1,))
    assert logp_error(nested_view(model, (1,)), sample(llm)) < TOLERANCE
