"""`nested-reft plan`: its job counts are the workflow's, docs/scale.md shows what it prints, bad options are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import scale_docs
import yaml
from workflow_harness import ROOT, Pipeline, read_config

from nested_reft.cli import main
from nested_reft.config.experiment import Config, load_config
from nested_reft.config.sources import GeneratedProblems, HubProblems
from nested_reft.data.lock import HubLock, read_lock
from nested_reft.planning.costs import Assumptions, Shape, Work, model_shape
from nested_reft.planning.plan import Jobs, other_jobs, plan_disk, plan_jobs, problem_count

ASSUMED = Assumptions(teraflops=1, gigabytes_per_s=100, layer_us=100, prompt_tokens=20, startup=10)


def assumed(**changes: float) -> Assumptions:
    return ASSUMED.model_copy(update=changes)


BUSY = assumed(gigabytes_per_s=1e21, layer_us=0.0, startup=0.0)


def work_of(jobs: Jobs) -> Work:
    return sum((work for work in jobs.work if work is not None), Work())


def shape_of(config: Config, size: str) -> Shape:
    shape = model_shape(config, size, Path("nowhere"))
    assert shape is not None
    return shape


def jobs_of(path: Path, lock: HubLock, assumptions: Assumptions = ASSUMED) -> list[Jobs]:
    config = load_config(path)
    shapes = {size: shape_of(config, size) for size in config.sizes}
    return list(plan_jobs(config, shapes, assumptions, Path("nowhere"), lock))


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.copied_to(tmp_path / "pipeline")


@pytest.mark.parametrize("name", ["smoke", "smollm2"])
def test_the_numbers_of_jobs_are_those_of_the_workflow(pipeline: Pipeline, name: str) -> None:
    path = ROOT / f"config/{name}.yaml"
    found = pipeline.dry_run(config=f"config/{name}.yaml").jobs
    planned = jobs_of(path, HubLock())
    kinds = {job.kind for job in planned}
    for kind in kinds:
        counted = sum(count for rule, count in found.items() if re.fullmatch(rf"(on_policy_)?{kind}(_.*)?", rule))
        assert counted == sum(len(job.work) for job in planned if job.kind == kind), kind
    assert sum(found.values()) == sum(len(job.work) for job in planned) + other_jobs(load_config(path))


def test_the_work_of_each_kind_is_that_of_its_passes() -> None:
    """Of smollm2: prompts of 20 tokens, on a machine that is never idle and reads for nothing."""
    path = ROOT / "config/smollm2.yaml"
    jobs = {job.kind: job for job in jobs_of(path, HubLock(), BUSY)}
    config = load_config(path)
    shape = shape_of(config, "135m")

    def forward(prompts: int, rows: int, new: int) -> float:
        return shape.flops(prompts * 20, 10.5, 0) + shape.flops(rows * new, 20 + new / 2, rows * new)

    def rollout(prompts: int, rows: int, new: int, skipped: int) -> float:
        prefill = shape.flops(prompts * 20, 10.5, prompts, skipped)
        return prefill + shape.flops(rows * (new - 1), 20 + new / 2, rows * (new - 1), skipped)

    expected = {
        # Solutions of up to 32 tokens, three passes of each batch; with layer drop, and without it to compare.
        "warmup": (2, 2 * 120 * 3 * forward(16, 16, 32)),
        "influence": (3, 3 * 31 * shape.flops(16 * 20, 10.5, 16 * 20)),
        # Three models, a job for each choice of layers; at skip 0 one strategy stands for all three.
        "nestability": (
            3 * (1 + 3 * 3),
            3
            * 8
            * sum(
                ways * (rollout(8, 16, 32, skipped) + forward(8, 16, 32))
                for ways, skipped in ((1, 0), (3, 2), (3, 3), (3, 4))
            ),
        ),
        # 1 + 5 pairs, two steps each, with completions of 16 tokens.
        "step_speed": (
            3,
            6
            * sum(
                rollout(8, 64, 16, layers) + 3 * forward(8, 64, 16) for skipped in (2, 3, 4) for layers in (0, skipped)
            ),
        ),
    }
    for kind, (count, flops) in expected.items():
        work = work_of(jobs[kind])
        assert (len(jobs[kind].work), work.flops) == (count, pytest.approx(flops)), kind
        assert work.seconds == pytest.approx(flops / 1e12)
    disk = plan_disk(config, "135m", shape)
    assert disk.total == disk.model + 2 * 4 * shape.parameters + 21 * disk.policy


@pytest.mark.parametrize("source", [{"source": "package", "package": "a==1"}, {"source": "gguf", "path": "a.gguf"}])
def test_a_gguf_file_costs_what_a_model_of_the_hub_does_but_is_stored_in_float32(
    source: dict[str, str], tmp_path: Path
) -> None:
    settings = read_config("paper.yaml")
    settings["sizes"]["1.5b"] = source | {key: settings["sizes"]["1.5b"][key] for key in ("layers", "shape")}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    assert jobs_of(tmp_path / "own.yaml", HubLock()) == jobs_of(ROOT / "config/paper.yaml", HubLock())
    config = load_config(tmp_path / "own.yaml")
    shape = shape_of(config, "1.5b")
    assert plan_disk(config, "1.5b", shape).model == 4 * shape.parameters


def test_every_job_has_work_and_starts_once() -> None:
    path = ROOT / "config/smoke.yaml"
    at_once = jobs_of(path, HubLock(), assumed(startup=0.0))
    for job, quick in zip(jobs_of(path, HubLock()), at_once, strict=True):
        assert work_of(job).flops > 0
        assert job.seconds == pytest.approx([seconds + 10 for seconds in quick.seconds])


def test_what_the_config_expects_comes_after_the_options_and_before_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_config("smoke.yaml")
    settings["plan"] = {"prompt_tokens": 33, "length": 0.5, "cpu_teraflops": 0.07}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["plan", "--config", str(tmp_path / "own.yaml"), "--length", "0.25"]) == 0
    printed = capsys.readouterr().out
    for text in ("--prompt-tokens 33`", "--length 0.25`", "--teraflops 0.07`", "--mixed 1`", "--gigabytes-per-s 1.3`"):
        assert text in printed
    with_plan, without = (load_config(path) for path in (tmp_path / "own.yaml", ROOT / "config/smoke.yaml"))
    assert with_plan.canonical_json() == without.canonical_json(), "no job runs again"


def test_only_groups_with_a_gradient_have_a_backward_pass() -> None:
    """Of a training step's update: a forward pass, and twice that for the share of the groups."""
    path = ROOT / "config/smollm2.yaml"
    whole, half = (
        next(work_of(job) for job in jobs_of(path, HubLock(), assumed(mixed=mixed)) if job.kind == "train")
        for mixed in (1.0, 0.5)
    )
    config = load_config(path)
    shape = shape_of(config, "135m")
    forward = shape.flops(8 * 20, 10.5, 0) + shape.flops(64 * 32, 20 + 16, 64 * 32)
    assert whole.flops - half.flops == pytest.approx(21 * config.training.steps * forward)


def test_gradients_by_completion_are_computed_of_the_distinct_ones_alone() -> None:
    """Of a problem: two forward passes of each pair of pools, and the backward passes of those with a gradient."""
    path = ROOT / "config/smollm2.yaml"
    config, of = load_config(path), {}
    for share in (1.0, 0.25):
        found = jobs_of(path, HubLock(), assumed(distinct=share))
        of[share] = next(work_of(job) for job in found if job.kind == "completion_gradients")
    assert config.gradients.by_completion is not None
    problems, pool = config.gradients.by_completion.problems, config.gradients.by_completion.pool
    shape, corrections = shape_of(config, "135m"), len(config.gradients.corrections)
    tokens = [2 * pool * share * 32 for share in (1.0, 0.25)]
    whole, few = (shape.flops(20, 10.5, 0) + shape.flops(count, 20 + 16, count) for count in tokens)
    passes = 2 * 2 + 2 * 3 * (1 + corrections)
    assert of[1.0].flops - of[0.25].flops == pytest.approx(3 * problems * passes * (whole - few))


def test_a_benchmark_is_as_large_as_made_fetched_or_locked(tmp_path: Path) -> None:
    made = GeneratedProblems(source="generated", problems=7)
    assert problem_count(made, tmp_path / "none.json", HubLock()) == 7
    hub = HubProblems.model_validate(read_config("paper.yaml")["benchmarks"]["math_500"])
    lock = read_lock(ROOT / "config/hub.lock")
    assert problem_count(hub, tmp_path / "none.json", lock) == 500
    assert problem_count(hub.model_copy(update={"limit": 20}), tmp_path / "none.json", lock) == 20
    assert problem_count(hub.model_copy(update={"offset": 490, "limit": 20}), tmp_path / "none.json", lock) == 10
    assert problem_count(hub, tmp_path / "none.json", HubLock()) is None
    (tmp_path / "some.json").write_text('{"rows_kept": 499}', encoding="utf-8")
    assert problem_count(hub, tmp_path / "some.json", lock) == 499


def test_what_is_not_known_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_config("paper.yaml")
    del settings["sizes"]["7b"]["shape"]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--config", "my.yaml"]) == 0
    output = capsys.readouterr().out
    assert "Unknown: the shape of '7b'. Fetch it (snakemake --cores 1 results/paper/models/7b.json)" in output
    (row,) = (line for line in output.splitlines() if line.startswith("| 7b ") and " train " in line)
    assert [cell.strip() for cell in row.split("|")][3:7] == ["90", "8", "unknown", "unknown"]
    # Neither fetched nor locked here: the size of the benchmarks.
    (row,) = (line for line in output.splitlines() if line.startswith("| 1.5b ") and " evaluate " in line)
    assert "unknown" in row


def test_jobs_that_ask_for_too_little_time_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_config("paper.yaml")
    settings["resources"] = {"7b": {"train": {"runtime": 30}}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--config", "my.yaml"]) == 0
    assert "Too short: resources.7b.train.runtime: 30 minutes are requested" in capsys.readouterr().out


def test_the_paper_asks_for_enough_time() -> None:
    assert "Too short" not in scale_docs.plan()


def test_the_laptop_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """Its reference run took 0.52 hours of a core; 30 % off is near enough."""
    assert main(["plan", "--config", str(ROOT / "config/config.yaml")]) == 0
    output = capsys.readouterr().out
    (total,) = (line for line in output.splitlines() if line.startswith("| all "))
    hours = float([cell.strip() for cell in total.split("|")][5])
    assert 0.7 * 0.52 < hours < 1.3 * 0.52
    assert "Memory" not in output


def test_the_language_model_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """On one core of an AMD EPYC, of 98 GFLOP/s, a step of baseline ReFT took 15.7 s of processor time and one of
    warm-up 11; 30 % off is near enough.
    """
    path = ROOT / "config/smollm2.yaml"
    config = load_config(path)
    assert config.warmup is not None
    assert main(["plan", "--config", str(path)]) == 0
    lines = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    longest = {cells[2]: 3600 * float(cells[6]) for cells in lines if cells[1:2] == ["135m"] and cells[2] != "model"}
    assert longest["train"] / config.training.steps == pytest.approx(15.7, rel=0.3)
    assert longest["warmup"] / config.warmup.steps == pytest.approx(11.0, rel=0.3)


def test_the_page_shows_what_the_command_prints() -> None:
    page = scale_docs.TARGET.read_text(encoding="utf-8")
    assert page == scale_docs.render(page), "docs/scale.md is out of date; run `make config-docs`"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teraflops", "0"], "teraflops: input should be greater than 0, got 0.0"),
        (["--layer-us", "-1"], "layer_us: input should be greater than or equal to 0, got -1.0"),
        (["--length", "1.5"], "length: input should be less than or equal to 1, got 1.5"),
        (["--startup", "inf"], "startup: input should be a finite number, got inf"),
    ],
)
def test_a_bad_option_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "config/smoke.yaml"
    assert main(["plan", "--config", str(path), *arguments]) == 1
    assert capsys.readouterr().out == f"nested-reft plan: error: options: {message}\n"


@pytest.mark.parametrize("text", ["8x", "0x80", "80"])
def test_gpus_are_a_number_and_a_size(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--gpus", text])
    assert f"'{text}' is not of the form 8x80" in capsys.readouterr().err


def test_a_share_that_is_too_small_for_vllm_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """7.6 billion bfloat16 weights of '7b' do not fit into 0.3 of 40 GB; 1.5 billion do, and so do both into 24 GB."""
    assert main(["plan", "--config", str(ROOT / "config/paper.yaml"), "--gpus", "1x40", "8x80"]) == 0
    output = capsys.readouterr().out
    small = [line for line in output.splitlines() if line.startswith("Too small: ")]
    assert small == [
        "Too small: vllm.memory_share: 0.3 of 40 GB does not hold the weights of '7b', and keys and values of one "
        "completion."
    ]
    assert "**vLLM** writes the completions" in output
    assert main(["plan", "--config", str(ROOT / "config/smollm2.yaml")]) == 0
    assert "vLLM" not in capsys.readouterr().out
