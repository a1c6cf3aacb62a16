"""What the benchmarks share: options, models, prompts, interleaved pairs, and the JSON line.

Two sides are timed in pairs, one right after the other, and the order alternates from pair to pair (A B, B A, ...): a
drift of the machine's speed favours neither. A ratio is the median over pairs of the pair's own ratio; its spread is
the quartiles. The first pair warms up and is not counted. Times are wall-clock times; each ratio of them comes with one
of processor times, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from nested_reft.config.experiment import Config, load_config
from nested_reft.config.sources import GeneratedProblems, PackageModel, Pretraining, ScratchModel
from nested_reft.config.strict import settings_hash
from nested_reft.config.training import Training
from nested_reft.data.problems import generate_problems
from nested_reft.data.records import Problem
from nested_reft.rollouts.policy import Policy, load_policy, save_policy
from nested_reft.rollouts.prompts import encode_prompts
from nested_reft.runtime.manifest import processor_name
from nested_reft.runtime.timing import now
from nested_reft.training.pretrain import pretrain

ROOT = Path(__file__).parents[1]
CACHE = Path(__file__).parent / ".cache"
Work = Callable[[int], Any]  # what a side does in pair i (warm-up pairs have a negative i)

SMOLLM2, QWEN = "smollm2", "qwen0.5b"
# Made up for vllm_rollout.py; then https://huggingface.co/Qwen and HuggingFaceTB, config.json of each
SHAPES: dict[str, dict[str, Any]] = {
    "65m": {"num_hidden_layers": 16, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2,
            "intermediate_size": 2048, "vocab_size": 8192, "tie_word_embeddings": True},
    SMOLLM2: {
        "num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    QWEN: {
        "num_hidden_layers": 24, "hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "qwen2.5-math-1.5b": {
        "num_hidden_layers": 28, "hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2,
        "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "qwen2.5-math-7b": {
        "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
# The same number of layers, so that a skip means the same; everything else as small as vLLM's kernels allow.
QUICK = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "vocab_size": 128,
}


@dataclass(frozen=True)
class Spread:
    """The median of some values and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def parse_options(
    description: str | None, add: Callable[[argparse.ArgumentParser], object] | None = None
) -> argparse.Namespace:
    """The options that every benchmark has, and its own ones, by `add`.

    Ends the program if a GPU was asked for and there is none.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, in seconds; the numbers mean nothing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of torch (default 1)")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="keeps the pre-trained models")
    parser.add_argument(
        "--pretraining-steps",
        type=int,
        metavar="N",
        help="of the small and large model (default: as "
        "in the experiment; 500 teach them the form of a solution and little else)",
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="append the JSON line to this file too")
    if add is not None:
        add(parser)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda was asked for, but torch sees no GPU")
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return options


def fail(text: str, code: int = 1) -> None:
    """End the program with one line."""
    print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)
    raise SystemExit(code)


def require_bench_extra(*modules: str) -> None:
    """End the program with exit code 2 if a package that we compare with is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        fail(f"{' and '.join(missing)} not installed; run: pip install -e '.[bench]'", 2)


@dataclass(frozen=True)
class Pair:
    """Wall-clock seconds, processor seconds and results of (first, second)."""

    seconds: tuple[float, float]
    processor: tuple[float, float]
    results: tuple[Any, Any]


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, float, Any]:
    """Wall-clock seconds, processor seconds, and the result."""
    started, started_processor = now(device), time.process_time()
    result = work()
    return now(device) - started, time.process_time() - started_processor, result


def timed_pairs(first: Work, second: Work, pairs: int, device: torch.device) -> list[Pair]:
    """Run both sides in pairs; returns the counted pairs."""
    done = []
    for pair in range(-1, pairs):
        order = (0, 1) if pair % 2 == 0 else (1, 0)
        of_side = {side: timed(lambda side=side, pair=pair: (first, second)[side](pair), device) for side in order}
        seconds, processor, results = zip(of_side[0], of_side[1], strict=True)
        if pair >= 0:
            done.append(Pair(seconds, processor, results))
    return done


def laptop_config(quick: bool) -> Config:
    """The default experiment; `quick` makes its models tiny and its problems easy.

    The models are trained just long enough to write solutions of the right form: grading anything else is slow.
    """
    config = load_config(ROOT / "config/config.yaml")
    if not quick:
        return config
    tiny = {
        "width": 32,
        "heads": 2,
        "key_value_heads": 1,
        "feed_forward": 64,
        "pretraining_steps": 100,
        "pretraining_learning_rate": 0.01,
    }
    pretraining = of(config.pretraining, Pretraining)
    easy = {"problems": 1600, "steps": (1, 1), "phrasing": "standard", "distractors": (0, 0)}
    problems = pretraining.problems.model_copy(update=easy)
    return config.model_copy(
        update={
            "sizes": {name: model.model_copy(update=tiny) for name, model in config.sizes.items()},
            "pretraining": pretraining.model_copy(
                update={"problems": problems, "warmup_steps": 20, "wrong_fraction": 0.0, "layer_drop": 0.0}
            ),
            "training": config.training.model_copy(
                update={"problems_per_step": 4, "completions_per_problem": 4, "max_new_tokens": 10}
            ),
        }
    )


def of(value: Any, kind: type) -> Any:
    """The value, which a config is known to hold in this kind; TypeError if that has changed."""
    if not isinstance(value, kind):
        raise TypeError(f"the config holds a {type(value).__name__}, but the benchmarks need a {kind.__name__}")
    return value


def laptop_policy(config: Config, size: str, options: argparse.Namespace) -> Policy:
    """The experiment's pre-trained model of a size: made once by the experiment's own code, then kept in the cache."""
    settings, pretraining = of(config.sizes[size], ScratchModel), of(config.pretraining, Pretraining)
    if options.pretraining_steps:
        settings = settings.model_copy(update={"pretraining_steps": options.pretraining_steps})
    key = settings_hash(settings.canonical_json() + pretraining.canonical_json() + config.prompt.canonical_json())
    folder, device = options.cache / f"{size}-{key}", torch.device(options.device)
    if not (folder / "config.json").exists():
        print(f"{size}: pre-training {settings.pretraining_steps} steps, kept in {folder}", flush=True)

        def report(step: int, loss: float) -> None:
            if step % 250 == 0:
                print(f"{size}: step {step}, loss {loss:.3f}", flush=True)

        policy = pretrain(settings, pretraining, config.prompt, size, device, report)
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        save_policy(policy, part)
        if folder.exists():  # another benchmark was faster
            shutil.rmtree(part)
        else:
            part.rename(folder)
    return load_policy(folder, device=device)


def laptop_problems(config: Config) -> list[Problem]:
    """What reinforcement trains on."""
    name, problems = next(iter(config.datasets.items()))
    return generate_problems(of(problems, GeneratedProblems), "train", name)


def laptop_batch(config: Config, policy: Policy, problems: Sequence[Problem], first: int) -> tuple[Tensor, Tensor]:
    """Prompt ids and mask (P, S) of a step's problems, starting at problem `first`."""
    training: Training = config.training
    chosen = problems[first : first + training.problems_per_step]
    questions = [problem.question for problem in chosen]
    return policy.batch(encode_prompts(questions, config.prompt, policy.tokenizer, training.max_prompt_tokens))


def smollm2_batch(options: argparse.Namespace) -> tuple[Config, Policy, Tensor, Tensor]:
    """config/smollm2.yaml, its unmodified model (kept in the cache), and the prompts (P, S) of a step.

    The problems are those of the default experiment, as a data set would have to be fetched.
    """
    from nested_reft.data.gguf_models import load_gguf

    config, folder = load_config(ROOT / "config/smollm2.yaml"), options.cache / SMOLLM2
    if not (folder / "config.json").exists():
        print(f"{SMOLLM2}: fetching the model, kept in {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        load_gguf(of(config.sizes["135m"], PackageModel), folder)
    policy = load_policy(folder, device=torch.device(options.device), prompt=config.prompt)
    return config, policy, *laptop_batch(config, policy, laptop_problems(laptop_config(quick=False)), 0)


def half_dtype(device: str) -> torch.dtype:
    """bfloat16, or float32 on a CPU that has no instructions for it: there a bfloat16 product is far slower."""
    fast = device == "cuda" or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    return torch.bfloat16 if fast else torch.float32


def random_model(name: str, options: argparse.Namespace, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A Qwen2 of the named shape with random weights in `dtype` (None: `half_dtype`), and no end token."""
    shape = SHAPES[name] | (QUICK if options.quick else {})
    ends = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    # Built in its final type: 7 B in float32 would not fit.
    torch.set_default_dtype(dtype or half_dtype(options.device))
    try:
        with torch.device(options.device):
            return Qwen2ForCausalLM(Qwen2Config(**shape, **ends)).eval()
    finally:
        torch.set_default_dtype(default)


def random_prompts(model: PreTrainedModel, prompts: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Random prompt ids and a mask that is true everywhere, (P, S) each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (prompts, tokens), generator=generator).to(model.device)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def print_result(benchmark: str, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print the JSON line: the result, and where it was measured."""
    machine = {
        "cpu": processor_name(),
        "threads": options.threads,
        "device": options.device,
        "quick": options.quick,
        "pretraining_steps": options.pretraining_steps,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if options.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    line = json.dumps({"benchmark": benchmark, **_rounded(result), **machine})
    if options.log is not None:
        with options.log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")
    print(line, flush=True)


def _rounded(value: Any) -> Any:
    """Floats to five digits, in a structure of dictionaries and lists; a spread as [median, low, high]."""
    if isinstance(value, Spread):
        return _rounded([value.median, value.low, value.high])
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
