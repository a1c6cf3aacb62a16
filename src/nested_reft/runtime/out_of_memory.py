"""What to say when a GPU runs out of memory: which setting to lower for the phase that failed."""

from __future__ import annotations

import sys
import traceback

UPDATE = "lower training.problems_per_micro_batch, which changes no result unless `normalisation` is bnpo"
# By sub-command: what to lower if a rollout fails, and if anything after it fails.
ADVICE = {
    "pretrain": ("lower pretraining.batch_size",) * 2,
    "warmup": ("lower warmup.solutions_per_micro_batch, which changes no result",) * 2,
    "train": ("lower training.problems_per_step, completions_per_problem or max_new_tokens", UPDATE),
    "evaluate": ("lower evaluation.batch_problems",) * 2,
    "throughput": ("lower throughput.problems, completions_per_problem or new_tokens",) * 2,
    "nestability": ("lower nestability.problems_per_batch or completions_per_problem",) * 2,
    "step-speed": ("lower training.problems_per_step, completions_per_problem or step_speed.new_tokens", UPDATE),
    "on-policy-gradients": ("lower gradients.problems_per_batch or completions_per_problem", UPDATE),
    "gradients": ("lower gradients.problems_per_batch or completions_per_problem", UPDATE),
}
ROLLOUT = "sample_completions"  # the function that makes every rollout
LOADING = "load_policy"


def memory_errors() -> tuple[type[Exception], ...]:
    """The error that a full GPU raises; none if torch is not loaded."""
    return (sys.modules["torch"].OutOfMemoryError,) if "torch" in sys.modules else ()


def explain_memory(command: str, error: Exception) -> str:
    """One line: the phase that failed, what it asked for, and which setting to lower."""
    functions = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    rollout, other = ADVICE.get(command, ("use a GPU with more memory",) * 2)
    if LOADING in functions:
        phase, advice = "loading the model", "stop other programs that use it"
    elif ROLLOUT in functions:
        phase, advice = "a rollout", rollout
    else:
        phase, advice = "an update" if other == UPDATE else "the computation", other
    asked = ". ".join(" ".join(str(error).split()).split(". ")[:3])
    return f"not enough GPU memory for {phase}: {advice}, or use a GPU with more memory ({asked})"
