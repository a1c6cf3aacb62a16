"""What each job depends on and what not, and that config and core agree about names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from valid_config import COMPARED, PROBLEMS, REMOVE, VALID, changed

from nested_reft.config.experiment import Config, load_config, nested_cells, parse_config, stages, with_device
from nested_reft.config.gradients import Completions
from nested_reft.config.jobs import (
    completion_gradient_settings,
    data_settings,
    evaluate_settings,
    gradient_settings,
    influence_settings,
    model_settings,
    nestability_settings,
    on_policy_settings,
    settings_by_kind,
    step_speed_settings,
    throughput_settings,
    train_settings,
    warmup_settings,
)
from nested_reft.config.run_table import run_table, strategy_table
from nested_reft.config.strict import ConfigError, Strict
from nested_reft.config.training import Adaptation, Training
from nested_reft.core.advantages import BASELINES
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.core.loss import NORMALISATIONS


def train_text(config: Config) -> str:
    run = next(run for run in run_table(config) if run.path == "tiny/stories/retrace/skip17/seed1")
    return train_settings(config, run).canonical_json()


def completion_text(config: Config) -> str:
    gradients = config.gradients.model_copy(update={"by_completion": Completions(problems=3, pool=2)})
    return completion_gradient_settings(config.model_copy(update={"gradients": gradients}), "tiny", 17).canonical_json()


NESTABILITY = {"batches": 2, "problems_per_batch": 2, "completions_per_problem": 2}
# Of `evaluation`, what does not change a result: how it is judged, and how many benchmarks share a process.
JUDGEMENT = {"headline": "greedy", "parity_margin": 0.01, "benchmarks_per_job": 3}
# What a job is passed, from the config; changes that do not concern it; and some that do.
DEPENDENCE: dict[str, tuple[Callable[[Config], str], list[tuple[str, Any]], list[tuple[str, Any]]]] = {
    "train": (
        train_text,
        [
            ("seeds", [1]),
            ("corrections/unit", REMOVE),
            ("corrections/retrace", {"lambda": 0.9, "skips": [17]}),
            ("evaluation/max_new_tokens", 9),
            ("throughput/pairs", 5),
            ("layer_choice", {"influence_problems": 3}),
            ("training/temperature", 1.0),  # the default, spelt out
        ],
        [("training/learning_rate", 0.2), ("corrections/retrace", {"lambda": 0.8}), ("prompt/suffix", " =")],
    ),
    "gradients": (
        lambda config: gradient_settings(config, "tiny", 17).canonical_json(),
        [("gradients/bias_margin", 0.3), ("gradients/variance_limit", 5.0)],
        [("gradients/batches", 5), ("gradients/corrections", {"base": {}}), ("prompt/end_tokens", ["?"])],
    ),
    "on-policy gradients": (
        lambda config: on_policy_settings(config, "tiny").canonical_json(),
        [("skips", [0, 34]), ("gradients/corrections", {"base": {}}), ("training/update_clip_low", 0.1)],
        [("gradients/batches", 5), ("gradients/seed", 1), ("training/top_p", 0.9), ("training/max_new_tokens", 5)],
    ),
    "completion gradients": (
        completion_text,
        [("gradients/batches", 5), ("gradients/bias_margin", 0.3), ("training/problems_per_step", 5)],
        [("gradients/seed", 1), ("gradients/corrections", {"base": {}}), ("training/temperature", 0.5)],
    ),
    "step speed": (
        lambda config: step_speed_settings(config, "tiny", 17).canonical_json(),
        [("training/steps", 9), ("training/learning_rate", 0.2), ("training/warmup_steps", 1), ("seeds", [1])],
        [("training/problems_per_step", 5), ("training/updates_per_rollout", 2), ("step_speed", {"pairs": 5})],
    ),
    "throughput": (
        lambda config: throughput_settings(config, "tiny", 17).canonical_json(),
        [("prompt/end_tokens", ["?"]), ("training/max_new_tokens", 5)],
        [("throughput/new_tokens", 5), ("training/border", 2), ("training/top_p", 0.9)],
    ),
    "influence": (
        lambda config: influence_settings(config, "tiny", "pretrained").canonical_json(),
        [("training/top_p", 0.9), ("gradients/batches", 5)],
        [("layer_choice", {"influence_problems": 3}), ("training/max_new_tokens", 5)],
    ),
    "nestability": (
        lambda config: nestability_settings(config, "tiny", "pretrained", 17, "uniform", 1).canonical_json(),
        [
            ("nestability", NESTABILITY | {"strategies": ["least"], "borders": [2], "dataset": "more"}),
            ("training/border", 0),
            ("parts", ["nestability"]),
        ],
        [("nestability", NESTABILITY | {"batches": 3}), ("training/top_p", 0.9), ("training/max_new_tokens", 5)],
    ),
    "evaluation": (
        lambda config: evaluate_settings(config, "tiny", None, ("one",)).canonical_json(),
        [(f"evaluation/{key}", value) for key, value in JUDGEMENT.items()],
        [("evaluation/seed", 1), ("evaluation/max_new_tokens", 9), ("training/dtype", "bfloat16")],
    ),
    "model": (
        lambda config: model_settings(config, "tiny").canonical_json(),
        [("prompt/end_tokens", ["?"]), ("training/dtype", "bfloat16")],
        [("prompt/suffix", " ="), ("pretraining/seed", 1)],
    ),
}


@pytest.mark.parametrize("kind", DEPENDENCE)
def test_a_job_s_settings_depend_on_what_the_job_depends_on_alone(kind: str) -> None:
    text, same, other = DEPENDENCE[kind]
    base = {"nestability": NESTABILITY} if kind == "nestability" else {}
    expected = text(parse_config(VALID | base))
    texts = {change[0]: text(parse_config(base | changed(*change))) for change in same}
    assert [path for path, found in texts.items() if found != expected] == []
    assert len({text(parse_config(base | changed(*change))) for change in other} | {expected}) == len(other) + 1


def test_data_of_both_roles_come_from_their_own_table() -> None:
    settings = changed("benchmarks/one", PROBLEMS | {"problems": 5})
    settings["datasets"]["one"] = PROBLEMS | {"problems": 7}
    config = parse_config(settings)
    assert data_settings(config, "test", "one").problems.problems == 5
    assert data_settings(config, "train", "one").problems.problems == 7


def test_the_rollout_engine_is_part_of_what_it_samples_and_of_nothing_else() -> None:
    """What vLLM is given changes no job of `torch`."""
    plain, run = parse_config(VALID), run_table(parse_config(VALID))[0]
    for same in (changed("rollout_engine", "torch"), changed("vllm", {"memory_share": 0.5})):
        assert train_settings(parse_config(same), run) == train_settings(plain, run)
    assert train_settings(plain, run).vllm is None

    config = parse_config(changed("rollout_engine", "vllm") | {"vllm": {"memory_share": 0.4, "sleep": True}})
    assert json.loads(train_settings(config, run).canonical_json())["vllm"] == {"memory_share": 0.4, "sleep": True}
    assert train_settings(config, run).key != train_settings(plain, run).key
    # There are no updates in an evaluation: `sleep` changes none.
    evaluated = json.loads(evaluate_settings(config, "tiny", run, ("one",)).canonical_json())
    assert evaluated["vllm"] == {"memory_share": 0.4, "sleep": False}
    assert gradient_settings(config, "tiny", 17) == gradient_settings(plain, "tiny", 17)
    assert throughput_settings(config, "tiny", 17) == throughput_settings(plain, "tiny", 17)
    assert model_settings(config, "tiny") == model_settings(plain, "tiny")


def test_which_answers_count_is_part_of_what_is_graded_and_of_nothing_else() -> None:
    plain, marked = parse_config(VALID), parse_config(changed("reward", {"answer": "marked"}))
    assert parse_config(changed("reward", {"answer": "any"})) == plain
    run = run_table(plain)[0]
    graded: list[Callable[[Config], Strict]] = [
        lambda config: train_settings(config, run),
        lambda config: evaluate_settings(config, run.size, run, ("one",)),
        lambda config: gradient_settings(config, run.size, 17),
        lambda config: on_policy_settings(config, run.size),
    ]
    for settings in graded:
        assert settings(plain) != settings(marked)
        assert json.loads(settings(marked).canonical_json())["reward"] == {"answer": "marked"}
    for other in (throughput_settings, step_speed_settings):
        assert other(plain, run.size, 17) == other(marked, run.size, 17)


def test_the_config_whose_prompt_asks_for_a_box_wants_one() -> None:
    config = load_config(Path(__file__).parents[2] / "config/paper.yaml")
    assert config.prompt.system is not None
    assert "\\boxed" in config.prompt.system
    assert config.reward.answer == "marked"


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 50)])
def test_vllm_does_not_train_on_a_distribution_that_was_cut(key: str, value: float) -> None:
    settings = changed(f"training/{key}", value)
    parse_config(settings)
    with pytest.raises(ConfigError, match=f"training.{key}: .*set `rollout_engine: torch`"):
        parse_config(settings | {"rollout_engine": "vllm"})
    parse_config(changed("training/top_p", 1.0) | {"rollout_engine": "vllm"})
    parse_config(changed(f"evaluation/{key}", value) | {"rollout_engine": "vllm"})


def test_the_speed_of_a_step_has_its_own_length_of_completions() -> None:
    plain = step_speed_settings(parse_config(VALID), "tiny", 17)
    assert (plain.training.max_new_tokens, plain.correction, plain.skip) == (4, "base", 17)
    shorter = step_speed_settings(parse_config(changed("step_speed", {"new_tokens": 3})), "tiny", 17)
    assert shorter.training.max_new_tokens == 3


def test_a_target_reaches_the_runs_that_adapt_only() -> None:
    choice = COMPARED | {"strategies": ["uniform", "adaptive"], "target_ess": 0.7, "ess_batches": 2}
    config = parse_config(changed("layer_choice", choice))
    found = {run.strategy: train_settings(config, run) for run in strategy_table(config)}
    assert found["adaptive"].adapt == Adaptation(target_ess=0.7, ess_batches=2)
    assert found["uniform"].adapt is None


def test_gradients_are_measured_on_what_training_samples() -> None:
    settings = changed("training/top_p", 0.9)
    settings["layer_choice"] = COMPARED | {"strategies": ["static", "uniform"]}
    found = gradient_settings(parse_config(settings), "tiny", 17)
    assert (found.sampling.top_p, found.strategy, found.max_new_tokens) == (0.9, "static", 4)


# --- config and core agree


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_correction_has_its_parameters_with_their_defaults(name: str) -> None:
    defaults = CORRECTIONS[name].resolve({}, own=True)
    for given in ({}, defaults, dict.fromkeys(defaults)):
        assert parse_config(changed("corrections", {"base": {}, name: given})).corrections[name].params == defaults


def test_choices_of_the_training_settings_are_those_of_the_core() -> None:
    fields = Training.model_fields
    assert get_args(fields["normalisation"].annotation) == NORMALISATIONS
    assert get_args(fields["advantage_baseline"].annotation) == BASELINES


# --- skips of a correction


def test_a_correction_is_run_at_its_own_skips() -> None:
    settings = changed("corrections/retrace", {"lambda": 0.9, "skips": [34]})
    config = parse_config(settings)
    assert nested_cells(config) == [("base", 17), ("base", 34), ("unit", 17), ("unit", 34), ("retrace", 34)]
    ours = [run for run in run_table(config) if (run.size, run.dataset, run.seed) == ("tiny", "stories", 1)]
    assert [(run.correction, run.skip) for run in ours] == [
        ("base", 0), ("base", 17), ("unit", 17), ("base", 34), ("unit", 34), ("retrace", 34)
    ]  # fmt: skip


def test_skips_of_a_correction_survive_json() -> None:
    some = parse_config(changed("corrections/retrace", {"lambda": 0.9, "skips": [34]}))
    text = some.canonical_json()
    again = parse_config(json.loads(text))
    assert (again, again.canonical_json()) == (some, text)
    assert json.loads(text)["corrections"]["retrace"] == {"skips": [34], "lambda": 0.9}


def test_strategies_are_compared_where_their_correction_is_run() -> None:
    settings = changed("layer_choice", COMPARED)
    settings["corrections"]["retrace"] = {"skips": [34]}
    with pytest.raises(
        ConfigError, match=r"layer_choice\.skip: 'retrace' is not run at 17 %; add it to corrections.retra"
    ):
        parse_config(settings)


# --- parts


def test_an_experiment_has_the_jobs_of_its_parts_alone() -> None:
    def kinds(*parts: str, **more: Any) -> set[str]:
        return set(settings_by_kind(parse_config(VALID | {"parts": list(parts)} | more), "tiny"))

    assert kinds("training") == {"model", "train", "evaluate"}
    assert kinds("throughput", "step_speed") == {"model", "throughput", "step_speed"}
    assert kinds("gradients") == {"model", "gradients"}
    assert kinds("nestability", nestability=NESTABILITY) == {"model", "influence", "nestability"}
    assert kinds("training", nestability=NESTABILITY) == {"model", "train", "evaluate"}
    chosen = {"layer_choice": {"strategies": ["least"]}}
    assert kinds("throughput", **chosen) == {"model", "throughput"}, "no job reads the influence"
    assert kinds("gradients", **chosen) == {"model", "gradients", "influence"}
    # The gradients' layers are chosen with the first strategy alone.
    compared = {"layer_choice": {"strategies": ["uniform", "least"], "skip": 17, "correction": "base"}}
    assert kinds("gradients", **compared) == {"model", "gradients"}
    assert "influence" in kinds("training", **compared)
    everything = set(settings_by_kind(parse_config(VALID), "tiny"))
    assert everything == {"model", "train", "evaluate", "throughput", "step_speed", "gradients"}


# --- the warm-up


def test_the_warmup_and_what_comes_after_it() -> None:
    warmup = {"datasets": {"stories": PROBLEMS}, "steps": 2, "solutions_per_batch": 2, "learning_rate": 0.1}
    config = parse_config(changed("warmup", warmup))
    assert stages(config) == ("pretrained", "warmed_up")
    assert stages(parse_config(VALID)) == ("pretrained",)
    settings = warmup_settings(config, "tiny")
    assert "stories" not in settings.canonical_json()
    assert settings.max_new_tokens == 4
    assert '"stage":"warmed_up"' in evaluate_settings(config, "tiny", None, ("one",), "warmed_up").canonical_json()
    # Only the model that reinforcement starts from is sampled at other temperatures.
    config = parse_config(changed("evaluation/start_temperatures", [0.5]) | {"warmup": warmup})
    run = run_table(config)[0]
    asked = [(None, "warmed_up"), (None, "pretrained"), (run, "pretrained")]
    found = [evaluate_settings(config, "tiny", of, ("one",), stage).temperatures for of, stage in asked]
    assert found == [(0.5,), (), ()]
    assert data_settings(config, "warmup", "stories").role == "warmup"


@pytest.mark.parametrize(
    ("device", "gpus", "found"), [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 0, "cuda")]
)
def test_auto_is_a_gpu_if_there_is_one(device: str, gpus: int, found: str) -> None:
    config = with_device(parse_config(changed("device", device)), gpus)
    assert config.device == found
    assert evaluate_settings(config, "tiny", None, ("one",)).device == found
