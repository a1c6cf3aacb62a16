"""vLLM as the sampler: rollouts from its answers, what is asked of it, and what is refused in one line.

On a fake of the package (`fake_engine.py`); tests/vllm_engine has the real one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engine
import pytest
import torch
from fake_engine import FakeLLM, making
from tiny_training import tiny_policy

from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.sampling import Sampling
from nested_reft.config.training import Lora
from nested_reft.core.layers import nested_view
from nested_reft.engine.logp import completion_logp
from nested_reft.rollouts.policy import save_policy
from nested_reft.rollouts.samplers import Sampler, SamplerError, TorchSampler, sampler_factory, sampler_name
from nested_reft.rollouts.vllm_sampler import as_rollout, merged_parameters
from nested_reft.training.adapter import add_adapter

PROMPTS = [[4, 5, 6], [7, 8, 9, 10, 11], [12], [13, 14]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the policy that is loaded, as vLLM reads it."""
    save_policy(tiny_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def sampled(engine: Sampler, skipped: tuple[int, ...] = (), prompts: Any = PROMPTS, **changes: Any) -> Any:
    options = {"group_size": 3, "max_new_tokens": 5, "seed": 7, "sampling": Sampling(temperature=0.8)} | changes
    return engine.sample(skipped, *engine.policy.batch(prompts), **options)


# --- a rollout from vLLM's answers


def answer(*completions: tuple[list[int], list[float] | None]) -> Any:
    outputs = [
        SimpleNamespace(token_ids=tokens, logprobs=logp if logp is None else SimpleNamespace(logprobs=logp))
        for tokens, logp in completions
    ]
    return SimpleNamespace(outputs=outputs)


def test_a_rollout_has_each_completion_up_to_its_end_token_with_vllm_s_log_probabilities() -> None:
    """Two prompts, two completions each; 1 is the end token, 0 the padding. One is cut at three tokens."""
    prompt_ids, prompt_mask = torch.tensor([[0, 5], [6, 7]]), torch.tensor([[False, True], [True, True]])
    answers = [
        answer(([8, 1], [-0.5, -0.25]), ([1], [-2.0])),
        answer(([9, 9, 9], [-1.0, -0.125, -3.0]), ([0, 1], [-0.75, -1.5])),  # a pad token that was sampled counts
    ]
    rollout = as_rollout(answers, prompt_ids, prompt_mask, pad_id=0)
    assert rollout.tokens.tolist() == [[8, 1, 0], [1, 0, 0], [9, 9, 9], [0, 1, 0]]
    assert rollout.mask.tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
        [True, True, False],
    ]
    assert rollout.logp.tolist() == [[-0.5, -0.25, 0], [-2, 0, 0], [-1, -0.125, -3], [-0.75, -1.5, 0]]
    assert (rollout.tokens.dtype, rollout.mask.dtype, rollout.logp.dtype) == (torch.long, torch.bool, torch.float32)
    assert rollout.prompt_ids is prompt_ids
    assert rollout.prompt_mask is prompt_mask
    assert rollout.support is None
    assert rollout.group_size == 2


def test_greedy_completions_are_certain() -> None:
    prompt = torch.tensor([[5]])
    assert as_rollout([answer(([8, 1], None))], prompt, prompt > 0, pad_id=0).logp.tolist() == [[0, 0]]


# --- what is asked of vLLM


def test_the_engine_is_made_for_nested_rollouts_within_its_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.install(monkeypatch)
    engine = making(folder, Vllm(memory_share=0.4), max_model_len=9999)(tiny_policy())
    asked = fake_engine.made[0].arguments
    assert (asked["enforce_eager"], asked["logprobs_mode"]) == (True, "processed_logprobs")
    assert asked["worker_extension_cls"] == "nested_reft.integrations.vllm.NestedWorker"
    assert (asked["dtype"], asked["gpu_memory_utilization"], asked["enable_sleep_mode"]) == ("float32", 0.4, False)
    assert asked["max_model_len"] == 256  # the positions of the model, which are fewer
    assert asked["distributed_executor_backend"] is None
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert engine.name == sampler_name(Vllm()) == f"vllm {fake_engine.VERSION}"
    assert TorchSampler(tiny_policy()).name == sampler_name(None) == "torch"


def test_each_request_is_a_prompt_with_the_policy_s_end_tokens_and_its_own_seed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.install(monkeypatch)
    engine = making(folder)(tiny_policy())
    rollout = sampled(engine)
    options = fake_engine.made[0].options
    assert len(options) == 4
    assert len({asked.seed for asked in options}) == 4
    for asked in options:
        assert (asked.n, asked.max_tokens, asked.temperature, asked.logprobs) == (3, 5, 0.8, 0)
        assert (asked.top_k, asked.top_p, asked.ignore_eos, asked.detokenize) == (0, 1.0, True, False)
        assert asked.stop_token_ids == list(engine.policy.end_ids)
        assert 0 <= asked.seed < 2**62
    assert rollout.tokens.shape[0] == 12
    view = completion_logp(engine.policy.model, rollout, 0.8)
    torch.testing.assert_close(view, rollout.logp, rtol=0, atol=1e-5)


def test_a_prompt_s_completions_do_not_depend_on_the_process_that_samples_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.install(monkeypatch)
    engine = making(folder)(tiny_policy())
    whole = sampled(engine, (2,))
    for first in (0, 2):
        part = sampled(engine, (2,), PROMPTS[first : first + 2], part=(first, 4))
        of_whole = whole.groups(slice(first, first + 2))
        assert torch.equal(part.tokens[part.mask], of_whole.tokens[of_whole.mask])
        assert torch.equal(part.logp[part.mask], of_whole.logp[of_whole.mask])
    assert not torch.equal(sampled(engine, (2,), seed=8).tokens, whole.tokens)


def test_greedy_completions_are_those_of_torch_and_truncation_reaches_vllm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.install(monkeypatch)
    engine = making(folder)(tiny_policy())
    greedy = [sampled(made, (2,), sampling=None, group_size=1) for made in (engine, TorchSampler(engine.policy))]
    assert torch.equal(greedy[0].tokens, greedy[1].tokens)
    assert torch.equal(greedy[0].logp, greedy[1].logp)
    assert {(asked.temperature, asked.logprobs) for asked in fake_engine.made[0].options} == {(0.0, None)}
    sampled(engine, sampling=Sampling(top_k=3, top_p=0.9))
    assert {(asked.top_k, asked.top_p) for asked in fake_engine.made[0].options[4:]} == {(3, 0.9)}


def test_an_engine_that_sleeps_is_woken_for_its_weights_and_then_for_its_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.install(monkeypatch)
    engine = making(folder, Vllm(sleep=True))(tiny_policy())
    for _ in range(2):
        engine.refresh()
        sampled(engine, (2,))
        engine.release()
    step = [("wake", "weights"), "load", ("wake", "kv_cache"), ("nest", (2,)), ("generate", 4), ("sleep", 2)]
    assert fake_engine.made[0].arguments["enable_sleep_mode"]
    assert fake_engine.made[0].calls == [("nest", ()), ("sleep", 2), *step, *step]


# --- adapters


def test_merged_parameters_are_those_of_the_merged_model_which_stays_as_it_is() -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
    policy = tiny_policy()
    names = [name for name, _ in policy.model.named_parameters()]
    adapter = add_adapter(policy.model, Lora(rank=4, alpha=8), 5)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    before = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    merged = dict(merged_parameters(policy.model))
    assert list(merged) == names
    assert not any(tensor.requires_grad for tensor in merged.values())
    assert all(torch.equal(parameter, before[name]) for name, parameter in policy.model.named_parameters())
    adapter.merge_and_unload()
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(merged[name], parameter), name


# --- what is refused, in one line


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SamplerError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "rollout_engine: torch" in text
    return text


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_the_package_nothing_is_loaded() -> None:
    text = refusal(lambda: sampler_factory(Vllm(), Path("nowhere"), "float32", 9))
    assert "needs the package vllm; run: pip install 'nested-reft[vllm]'" in text


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "needs the package vllm" in refusal(lambda: sampler_factory(Vllm(), Path("nowhere"), "float32", 9))


def test_a_package_that_cannot_be_imported_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.install(monkeypatch)
    make = making(folder)
    monkeypatch.setattr("nested_reft.rollouts.vllm_sampler.require_vllm", lambda: None)
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert "vLLM is installed and cannot be imported" in refusal(lambda: make(tiny_policy()))


def test_a_build_for_another_device_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.install(monkeypatch, device="cuda")
    text = refusal(lambda: making(folder)(tiny_policy()))
    assert "device: the model is on 'cpu', but vLLM is built for 'cuda'" in text
    assert not fake_engine.made


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ValueError("Free memory on device\nis less than desired GPU memory utilization"),
            "vllm.memory_share, now 0.3",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "vllm.memory_share, now 0.3"),
        (ValueError("Model architectures ['Odd']\nare not supported"), "vLLM cannot sample from this model"),
        (KeyError("layers.0.odd.weight"), "vLLM cannot sample from this model"),
    ],
)
def test_an_engine_that_does_not_start_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise error

    fake_engine.install(monkeypatch, llm=fails)
    text = refusal(lambda: making(folder)(tiny_policy()))
    assert line in text
    assert str(error).split("\n")[-1] in text


def test_a_guard_s_refusal_is_the_user_s_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.install(monkeypatch)
    engine = making(folder)(tiny_policy())
    assert "skipped has a layer that is none" in refusal(lambda: sampled(engine, (99,)))


def test_memory_that_runs_out_in_a_rollout_or_on_waking_is_the_user_s_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("CUDA Error: out of memory at cumem_allocator.cpp:62")

    fake_engine.install(monkeypatch)
    engine = making(folder, Vllm(sleep=True))(tiny_policy())
    monkeypatch.setattr(FakeLLM, "generate", fails)
    assert "vllm.memory_share" in refusal(lambda: sampled(engine))
    monkeypatch.setattr(FakeLLM, "wake_up", fails)
    assert "vllm.memory_share" in refusal(engine.refresh)


def test_views_of_the_stand_in_are_the_policy_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake leaves out what it is told to, or the tests above would show nothing."""
    fake_engine.install(monkeypatch)
    engine = making(folder)(tiny_policy())
    rollout = sampled(engine, (2, 3))
    right, wrong = (
        (completion_logp(nested_view(engine.policy.model, layers), rollout, 0.8) - rollout.logp).abs().max()
        for layers in ((2, 3), ())
    )
    assert right < 1e-5
    assert wrong > 0.01
