"""What one GPU gives: rollouts of each engine, full and nested, and a training step with its memory against the plan.

    python benchmarks/gpu.py [--quick] [--device cuda|cpu] [--shapes NAME ...] [--pairs N] [--csv FILE] [--table FILE]

Models have random weights of the named shapes in bfloat16 and no end token, so nothing is fetched and all completions
have the maximal length. Every engine and skip has a row; a row that was not run says why.

- rollout: 8 prompts of 256 tokens x 8 completions of 128. Engines: ours (no CUDA graphs; keeps every token's
  log-probability), transformers' `generate`, its continuous batching (`generate_batch`, with CUDA graphs), and vLLM
  (keeps log-probabilities too) with graphs and eager, if it is installed. At a skip, the full and the nested model take
  turns, with layers drawn again for each pair.
  `speedup` is the median over pairs, with quartiles; `ideal` is the layers' share of the floating-point operations.
- step: one step of training on the same prompts with the settings of config/paper.yaml (weights in float32, products in
  bfloat16, activation checkpointing), at skip 0. `peak_gb` is the most memory that torch had allocated,
  `planned_gb` what `nested-reft plan` predicts.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import transformers
from common import ROOT, SHAPES, Spread, parse_options, print_result, random_model, random_prompts, timed_pairs
from rollout_sides import Case, continuous_batching, nested_pairs, ours, theirs
from transformers import PreTrainedModel
from vllm_sides import count_tokens, installed, vllm_engine, vllm_version

from nested_reft.config.experiment import load_config
from nested_reft.config.run import BASELINE_CORRECTION, Run
from nested_reft.config.training import Training
from nested_reft.evaluation.throughput import ideal_speedup
from nested_reft.planning.costs import Gpus, Shape, plan_memory
from nested_reft.rollouts.policy import Policy
from nested_reft.runtime.manifest import processor_name
from nested_reft.training.run import PhaseClock, make_learner
from nested_reft.training.step import reft_step

SKIPS = (5, 10, 15)  # the paper's
PROMPTS, GROUP, PROMPT_TOKENS, NEW_TOKENS = 8, 8, 256, 128
OURS, GENERATE, BATCHED, GRAPHED, EAGER = "ours", "generate", "generate_batch", "vllm, graphs", "vllm, eager"
NO_VLLM = "vllm is not installed"
NO_TRAINER = "the trainer samples with our own sampler only"
GRAPHS = "its graphs hold all layers, and would be captured again for each draw"


@dataclass(frozen=True)
class Row:
    """A measurement, or why there is none. Times in seconds, memory in GB (10^9 bytes)."""

    shape: str
    work: str  # rollout or step
    engine: str
    skip: int
    not_run: str = ""
    tokens_per_s: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    ideal: float | None = None
    rollout_s: float | None = None
    update_s: float | None = None
    peak_gb: float | None = None
    planned_gb: float | None = None


def rollout_rows(
    name: str, case: Case, engine: str, sample: Callable[[Collection[int], int], object], pairs: int
) -> Iterator[Row]:
    """The rows of an engine that runs without any layers: `sample(skipped, seed)`. The first is the full model's."""
    full_speeds, nested = list[float](), list[Row]()
    tokens = len(case.prompt_ids) * case.group * case.new_tokens
    for skip in case.skips:
        draws, done = nested_pairs(case, skip, pairs, sample)
        spread = Spread.of([pair.seconds[0] / pair.seconds[1] for pair in done])
        full_speeds += [tokens / pair.seconds[0] for pair in done]
        nested.append(
            Row(
                name, "rollout", engine, skip,
                tokens_per_s=statistics.median(tokens / pair.seconds[1] for pair in done),
                speedup=spread.median, speedup_low=spread.low, speedup_high=spread.high,
                ideal=ideal_speedup(case.model, len(draws[0]), PROMPT_TOKENS + case.new_tokens / 2),
            )
        )  # fmt: skip
        print(f"{name}, {engine}, skip {skip} %: {nested[-1].tokens_per_s:,.0f} tokens/s, {spread} times", flush=True)
    yield Row(name, "rollout", engine, 0, tokens_per_s=statistics.median(full_speeds), speedup=1.0, ideal=1.0)
    yield from nested


def full_rows(name: str, case: Case, engine: str, run: Callable[[int], int], pairs: int) -> Iterator[Row]:
    """The rows of an engine that runs the full model only; `run(seed)` returns the number of tokens."""
    done = timed_pairs(run, run, max(pairs // 2, 1), case.model.device)
    speed = statistics.median(
        number / seconds for p in done for number, seconds in zip(p.results, p.seconds, strict=True)
    )
    print(f"{name}, {engine}: {speed:,.0f} tokens/s", flush=True)
    yield Row(name, "rollout", engine, 0, tokens_per_s=speed, speedup=1.0, ideal=1.0)
    yield from (Row(name, "rollout", engine, skip, GRAPHS) for skip in SKIPS)


def batched_rows(name: str, case: Case, pairs: int) -> Iterator[Row]:
    """The rows of continuous batching."""
    with continuous_batching(case) as batched:
        yield from full_rows(name, case, BATCHED, lambda _: batched(), pairs)


def vllm_rows(name: str, case: Case, engine: str, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of vLLM, eager or with graphs. It runs in another process, whose end gives back the GPU's memory."""
    if not installed():
        yield from (Row(name, "rollout", engine, skip, NO_VLLM) for skip in (0, *SKIPS))
        return
    with vllm_engine(case, options.threads, graphs=engine == GRAPHED, in_process=False) as sample:
        if engine == GRAPHED:
            yield from full_rows(name, case, engine, lambda seed: count_tokens(sample((), seed)), options.pairs)
        else:
            yield from rollout_rows(name, case, engine, sample, options.pairs)


def step_rows(name: str, model: PreTrainedModel, training: Training, prompt_tokens: int, pairs: int) -> Iterator[Row]:
    """The row of a step of our trainer, the median of some. Trains the model a little."""
    device = model.device
    prompt_ids, _ = random_prompts(model, training.problems_per_step, prompt_tokens)
    rewards = (torch.rand(len(prompt_ids), training.completions_per_problem) < 0.5).float()
    rewards[:, 0], rewards[:, 1] = 0.0, 1.0  # every group has a gradient
    policy = Policy(model, None, end_ids=(), pad_id=0)  # type: ignore[arg-type]  # no text is read or written
    run = Run(size="", dataset="", correction=BASELINE_CORRECTION, skip=0, seed=0)
    learner = make_learner(policy, run, training, {})
    phases = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    for step in range(1, pairs + 2):
        clock = PhaseClock(device)
        reft_step(learner, step, prompt_ids.tolist(), lambda *_: rewards, clock.end_phase)
        clock.end_phase("update")
        phases.append(clock.slowest(learner.world))
    rollout, update = (statistics.median(phase[key] for phase in phases[1:]) for key in ("rollout", "update"))
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    planned = plan_memory(Shape(model), training, prompt_ids.shape[1], Gpus(1, 0.0), "all weights")
    tokens = len(prompt_ids) * training.completions_per_problem * training.max_new_tokens
    row = Row(
        name, "step", OURS, 0, tokens_per_s=tokens / (rollout + update), rollout_s=rollout, update_s=update,
        peak_gb=peak, planned_gb=planned.peak(training.gradient_checkpointing) / 1e9,
    )  # fmt: skip
    print(
        f"{name}, step: rollout {rollout:.3g} s, update {update:.3g} s, {peak} GB of {row.planned_gb:.3g}", flush=True
    )
    yield row


def attempt(make: Iterator[Row], failed: Row) -> list[Row]:
    """The rows, or some that say why they could not be made: the other engines' rows are not lost with them."""
    try:
        return list(make)
    except Exception as error:  # whatever an engine that we did not write raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{failed.shape}, {failed.engine}: {reason}", flush=True)
        skips = (0, *SKIPS) if failed.work == "rollout" else (0,)
        return [replace(failed, skip=skip, not_run=reason) for skip in skips]


def measure(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """All rows of a shape."""
    prompts, group, prompt_tokens, new_tokens = PROMPTS, GROUP, PROMPT_TOKENS, NEW_TOKENS
    if options.quick:
        prompts, group, prompt_tokens, new_tokens = 2, 2, 8, 4
    model = random_model(name, options)
    case = Case(name, model, *random_prompts(model, prompts, prompt_tokens), group, new_tokens, 1.0, (), 0, SKIPS)

    def by_generate(skipped: Collection[int], seed: int) -> object:
        return theirs(replace(case, model=case.view(skipped)), seed)

    made = {
        OURS: rollout_rows(name, case, OURS, lambda skipped, seed: ours(case, case.view(skipped), seed), options.pairs),
        GENERATE: rollout_rows(name, case, GENERATE, by_generate, options.pairs),
        BATCHED: batched_rows(name, case, options.pairs),
        GRAPHED: vllm_rows(name, case, GRAPHED, options),
        EAGER: vllm_rows(name, case, EAGER, options),
    }
    for engine, rows in made.items():
        yield from attempt(rows, Row(name, "rollout", engine, 0))
    training = load_config(ROOT / "config/paper.yaml").training.model_copy(
        update={"problems_per_step": prompts, "completions_per_problem": group, "max_new_tokens": new_tokens}
    )
    step = step_rows(name, model.float(), training, prompt_tokens, options.pairs)
    yield from attempt(step, Row(name, "step", OURS, 0))
    yield from (Row(name, "step", engine, 0, NO_TRAINER) for engine in (GRAPHED, EAGER))


def table(rows: list[Row], machine: str) -> str:
    """The page with the two tables."""
    lines = ["# One GPU", "", f"Measured on {machine}, by `make gpu`.", ""]
    lines += ["| shape | engine | skip % | tokens/s | of the full model | ideal |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        if row.work == "rollout" and row.tokens_per_s is not None:
            spread = "" if row.speedup_low is None else f" [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
            cells = f"{row.tokens_per_s:,.0f}", f"{row.speedup:.2f}{spread}", f"{row.ideal:.3f}"
        elif row.work == "rollout":
            cells = f"not run: {row.not_run}", "", ""
        else:
            continue
        lines.append(f"| {row.shape} | {row.engine} | {row.skip} | {' | '.join(cells)} |")
    lines += ["", "| shape | a step with the rollouts of | rollout, s | update, s | peak memory, GB | planned, GB |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for row in rows:
        if row.work == "step" and row.update_s is not None:
            peak = "" if row.peak_gb is None else f"{row.peak_gb:.1f}"
            cells = f"{row.rollout_s:.2f}", f"{row.update_s:.2f}", peak, f"{row.planned_gb:.1f}"
            lines.append(f"| {row.shape} | {row.engine} | {' | '.join(cells)} |")
        elif row.work == "step":
            lines.append(f"| {row.shape} | {row.engine} | not run: {row.not_run} | | | |")
    return "\n".join(lines) + "\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own options."""
    parser.set_defaults(device="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["qwen2.5-math-1.5b"], metavar="NAME")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="counted pairs of each comparison")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows here")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables here, as Markdown")


def main() -> None:
    """Measure every shape, and print the JSON line."""
    options = parse_options(__doc__, add_options)
    rows = [row for name in options.shapes for row in measure(name, options)]
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else processor_name()
    machine = {"hardware": hardware, "torch": torch.__version__, "transformers": transformers.__version__}
    machine |= {"vllm": vllm_version() if installed() else ""}
    if options.csv:
        with options.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)] + list(machine), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) | machine for row in rows)
    if options.table:
        named = f"{hardware} with torch {torch.__version__} and transformers {transformers.__version__}"
        options.table.write_text(table(rows, named), encoding="utf-8")
    print_result("gpu", options, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
