"""Valid settings, and how a test changes one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[2] / "config"
PROBLEMS = {"source": "generated", "problems": 8}
VALID: dict[str, Any] = {
    "experiment": "test",
    "sizes": {
        "tiny": {
            "source": "scratch", "layers": 6, "width": 16, "heads": 2, "key_value_heads": 1, "feed_forward": 32,
            "pretraining_steps": 5, "pretraining_learning_rate": 0.01,
        },
        "big": {"source": "hub", "repo": "some/model", "layers": 28},
    },
    "datasets": {"stories": PROBLEMS, "more": PROBLEMS},
    "benchmarks": {"one": PROBLEMS, "two": PROBLEMS, "three": PROBLEMS},
    "skips": [17, 0, 34],
    "corrections": {"base": {}, "unit": {}, "retrace": {"lambda": 0.9}},
    "seeds": [1, 2],
    "prompt": {"style": "plain"},
    "pretraining": {"problems": PROBLEMS, "batch_size": 4},
    "training": {
        "steps": 2, "problems_per_step": 2, "completions_per_problem": 2, "max_new_tokens": 4, "learning_rate": 0.1,
    },
    "evaluation": {"samples_per_problem": 2, "max_new_tokens": 4},
    "throughput": {"problems": 2, "completions_per_problem": 2, "new_tokens": 4},
    "gradients": {"batches": 4, "problems_per_batch": 2, "completions_per_problem": 2, "corrections": {"unit": {}}},
}  # fmt: skip
REMOVE = object()
COMPARED = {"strategies": ["uniform", "static"], "skip": 17, "correction": "retrace"}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The valid settings with one of them set, or removed."""
    settings = json.loads(json.dumps(VALID))  # not deepcopy, which keeps shared parts shared
    *parents, last = path.split("/")
    inner = settings
    for key in parents:
        inner = inner[key]
    if value is REMOVE:
        del inner[last]
    else:
        inner[last] = value
    return settings
