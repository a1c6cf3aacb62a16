"""What to say when a GPU's memory does not suffice: which setting makes the phase that failed need less."""

from __future__ import annotations

import sys
import traceback

UPDATE = "lower training.problems_per_micro_batch, which for all `normalisation` but bnpo changes no result"
# By sub-command: what a rollout, and what anything after it, would need less for.
ADVICE = {
    "pretrain": ("lower pretraining.batch_size",) * 2,
    "train": ("lower training.problems_per_step, completions_per_problem or max_new_tokens", UPDATE),
    "evaluate": ("lower evaluation.batch_problems",) * 2,
    "throughput": ("lower throughput.problems, completions_per_problem or new_tokens",) * 2,
    "gradients": ("lower gradients.problems_per_batch or completions_per_problem", UPDATE),
}
ROLLOUT = "sample_completions"  # the function that all rollouts go through
LOADING = "load_policy"


def memory_errors() -> tuple[type[Exception], ...]:
    """The error of a full GPU; none where torch was not loaded."""
    return (sys.modules["torch"].OutOfMemoryError,) if "torch" in sys.modules else ()


def explain_memory(command: str, error: Exception) -> str:
    """One line: the phase that failed, what it asked for, and which setting to lower."""
    functions = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    rollout, other = ADVICE.get(command, ("use a GPU with more memory",) * 2)
    if LOADING in functions:
        phase, advice = "loading the model", "free it of other programs"
    elif ROLLOUT in functions:
        phase, advice = "a rollout", rollout
    else:
        phase, advice = "an update" if other == UPDATE else "the computation", other
    asked = ". ".join(" ".join(str(error).split()).split(". ")[:3])
    return f"the GPU's memory does not suffice for {phase}: {advice}, or use a GPU with more memory ({asked})"
