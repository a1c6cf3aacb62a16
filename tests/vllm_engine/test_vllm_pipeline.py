"""The pipeline with `rollout_engine: vllm`, against the same with `torch`: a small DAG both ways, and rollouts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from workflow_harness import Pipeline, tiny_config

from nested_reft.config import jobs
from nested_reft.config.experiment import parse_config
from nested_reft.config.rollout_engine import Vllm
from nested_reft.config.run import Run
from nested_reft.config.run_table import all_runs
from nested_reft.config.sampling import Sampling
from nested_reft.core.layers import nested_view
from nested_reft.data.records import read_problems
from nested_reft.engine.logp import completion_logp
from nested_reft.rollouts.policy import Policy, load_policy
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.rollouts.samplers import Sampler, TorchSampler, sampler_factory

pytest.importorskip("vllm.sampling_params", reason="vLLM is not installed: make test-vllm")

ENGINES = ("torch", "vllm")
TIMINGS = {"rollout_seconds", "reward_seconds", "update_seconds", "rollout_tokens_per_s", "tokens_per_s"}
# As in vllm_harness: both compute in float32, in another order.
TOLERANCE = 1e-4
COMPLETIONS = 16 * 8  # of a step


def settings(engine: str) -> dict[str, Any]:
    """Two runs of two steps, of a model whose heads are wide enough for vLLM and which solves some problems."""
    found = tiny_config() | {"experiment": engine, "rollout_engine": engine}
    found["sizes"]["tiny"] |= {"width": 64, "key_value_heads": 1, "heads": 2, "pretraining_steps": 300}
    easy = {"steps": [1, 1], "start": [2, 9], "operands": [2, 4]}
    for problems in (found["datasets"]["stories"], found["pretraining"]["problems"]):
        problems |= easy
    found["training"] |= {"problems_per_step": 16, "completions_per_problem": 8}
    return found


def runs(engine: str) -> list[Run]:
    return [run for run in all_runs(parse_config(settings(engine))) if (run.correction, run.skip) != ("base", 17)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A baseline and a nested run and the accuracy of the model before them, sampled by either engine.

    Its jobs are forked from a process that has imported torch, as usual.
    """
    made = Pipeline.copied_to(tmp_path_factory.mktemp("pipeline") / "pipeline")
    for engine in ENGINES:
        results = f"results/{engine}"
        targets = [f"{results}/runs/{run.path}/manifest.json" for run in runs(engine)]
        targets += [f"{results}/evaluations/tiny/pretrained/{name}.json" for name in ("heldout", "steps")]
        done = made.call(*targets, config=made.write_config(settings(engine), f"config/{engine}.yaml"))
        assert done.code == 0, done.output
    return made


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_greedy_completions_of_an_evaluation_agree(pipeline: Pipeline) -> None:
    for benchmark in ("heldout", "steps"):
        first, second = (
            read(pipeline.results(engine) / f"evaluations/tiny/pretrained/{benchmark}.json") for engine in ENGINES
        )
        assert [item["greedy"] for item in first["items"]] == [item["greedy"] for item in second["items"]]
        texts = [[text for text in record["completions"] if text["kind"] == "greedy"] for record in (first, second)]
        assert texts[0] == texts[1]
        assert len(texts[0]) == 3
        assert (first["rollout_engine"], second["rollout_engine"].split()[0]) == ENGINES


def test_rewards_of_the_first_step_agree_within_noise(pipeline: Pipeline) -> None:
    """The policy and the problems are the same and the draws are not. Given the problems, the variance of a mean of n
    rewards is at most p (1 - p) / n; 3.3 standard deviations of the difference are exceeded once in a thousand.
    """
    for index in range(2):
        means = [
            metrics_of(pipeline.results(engine) / "runs" / runs(engine)[index].path)[0]["reward"] for engine in ENGINES
        ]
        pooled = sum(means) / 2
        assert 0.02 < pooled < 0.98, "the test needs a model that solves some problems"
        assert abs(means[0] - means[1]) < 3.3 * math.sqrt(2 * pooled * (1 - pooled) / COMPLETIONS)


def test_runs_say_which_engine_wrote_and_are_as_far_off_policy_as_their_layers(pipeline: Pipeline) -> None:
    baseline, nested = (pipeline.results("vllm") / "runs" / run.path for run in runs("vllm"))
    for folder in (baseline, nested):
        manifest = read(folder / "manifest.json")
        assert manifest["rollout_engine"].startswith("vllm ")
        assert manifest["settings"]["vllm"] == {"memory_share": 0.3, "sleep": False}
    of_torch = read(pipeline.results("torch") / "runs" / runs("torch")[0].path / "manifest.json")
    assert of_torch["rollout_engine"] == "torch"
    assert "vllm" not in of_torch["settings"]
    for row in metrics_of(baseline):
        # After the first update too: the engine has its weights.
        assert row["ess"] == pytest.approx(1, abs=1e-3)
        assert row["ratio_max"] == pytest.approx(1, abs=1e-3)
    drawn = [row["skipped_layers"] for row in metrics_of(nested)]
    assert drawn == [
        row["skipped_layers"] for row in metrics_of(pipeline.results("torch") / "runs" / runs("vllm")[1].path)
    ]
    assert all(row["ess"] < 0.999 for row in metrics_of(nested))


def test_two_processes_train_as_one_does(pipeline: Pipeline, tmp_path: Path) -> None:
    """Each has its own engine and half of the problems, and a Python of its own: the DAG's jobs are forked."""
    run = runs("vllm")[1]
    arguments = [
        "nested-reft", "train", "--settings", jobs.train_settings(parse_config(settings("vllm")), run).canonical_json(),
        "--policy", "results/vllm/models/tiny", "--problems", "results/vllm/data/train/stories.jsonl",
    ]  # fmt: skip
    for name in ("checkpoints", "output", "metrics.jsonl", "manifest"):
        arguments += [f"--{name.removesuffix('.jsonl')}", str(tmp_path / name)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    environment = pipeline.environment(None)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [*launcher, *arguments], cwd=pipeline.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = metrics_of(pipeline.results("vllm") / "runs" / run.path)
    two = metrics_of(tmp_path)
    for first, second in zip(one, two, strict=True):
        assert first["skipped_layers"] == second["skipped_layers"]
        for key in first.keys() - TIMINGS - {"skipped_layers"}:
            assert second[key] == pytest.approx(first[key], rel=1e-3, abs=1e-4), key


# --- one engine in this process


@pytest.fixture(scope="module")
def policy(pipeline: Pipeline) -> Policy:
    return load_policy(pipeline.results("vllm") / "models/tiny", device=torch.device("cpu"))


@pytest.fixture(scope="module")
def engine(pipeline: Pipeline, policy: Policy) -> Sampler:
    return sampler_factory(Vllm(), pipeline.results("vllm") / "models/tiny", "float32", 128)(policy)


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline, policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    problems = read_problems(pipeline.results("vllm") / "data/test/steps.jsonl")
    config = parse_config(settings("vllm"))
    return policy.batch(encode_prompts([p.question for p in problems], config.prompt, policy.tokenizer, 64))


def test_behaviour_log_probabilities_are_the_nested_view_s_before_and_after_an_update(
    engine: Sampler, policy: Policy, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    sampling = Sampling(temperature=0.9)
    for step, skipped in enumerate([(2, 4), (), (3,)]):
        engine.refresh()
        rollout = engine.sample(skipped, *batch, sampling, group_size=4, max_new_tokens=12, seed=step)
        ended = rollout.mask.sum(-1) < 12
        assert ended.any()  # some completions end by themselves, and their last token counts:
        last = rollout.tokens.gather(1, rollout.mask.sum(-1, keepdim=True) - 1).squeeze(1)
        assert set(last[ended].tolist()) <= set(policy.end_ids)
        with torch.no_grad():
            right, wrong = (
                completion_logp(nested_view(policy.model, layers).eval(), rollout, 0.9) - rollout.logp
                for layers in (skipped, (1, 2))
            )
            assert right[rollout.mask].abs().max() < TOLERANCE
            assert wrong[rollout.mask].abs().max() > 0.01
            for parameter in policy.model.parameters():  # an update
                parameter.mul_(1.01)


def test_greedy_completions_are_those_of_torch_for_every_problem(
    engine: Sampler, policy: Policy, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    engine.refresh()
    greedy = [
        made.sample((), *batch, None, group_size=1, max_new_tokens=12, seed=list(range(len(batch[0]))))
        for made in (engine, TorchSampler(policy))
    ]
    assert torch.equal(greedy[0].tokens, greedy[1].tokens)
    assert torch.equal(greedy[0].mask, greedy[1].mask)


def test_a_seed_gives_the_same_completions_again_whatever_is_sampled_with_them(
    engine: Sampler, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Rounding follows the batch, but no draw here is so close that it turns over."""
    engine.refresh()
    options: dict[str, Any] = {"group_size": 4, "max_new_tokens": 12, "seed": 3}
    whole = engine.sample((2,), *batch, Sampling(), **options)
    again = engine.sample((2,), *batch, Sampling(), **options)
    part = engine.sample((2,), batch[0][4:8], batch[1][4:8], Sampling(), **options, part=(4, len(batch[0])))
    assert torch.equal(again.tokens, whole.tokens)
    of_whole = whole.groups(slice(4, 8))
    assert torch.equal(part.tokens[part.mask], of_whole.tokens[of_whole.mask])


def test_what_vllm_sampled_runs_again_for_its_code_and_what_torch_sampled_does_not(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    twin = pipeline.twin(tmp_path / "twin")
    twin.edit("integrations/vllm_worker.py")
    for engine, jobs_again in zip(ENGINES, ({}, {"train": 1, "evaluate": 1}), strict=True):
        targets = [
            f"results/{engine}/runs/{runs(engine)[0].path}/manifest.json",
            f"results/{engine}/evaluations/tiny/pretrained/heldout.json",
        ]
        assert twin.dry_run(*targets, config=f"config/{engine}.yaml").jobs == jobs_again
