"""Nested-ReFT: reinforced fine-tuning whose rollouts are sampled from a subset of the target model's own layers.

The names below are the public API. They are imported on first use, so `import nested_reft` loads neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nested_reft.core.advantages import group_advantages
    from nested_reft.core.corrections import importance_weights
    from nested_reft.core.diagnostics import off_policy_diagnostics
    from nested_reft.core.layer_selection import draw_skipped_layers
    from nested_reft.core.layers import nested_view
    from nested_reft.core.loss import Objective, policy_loss
    from nested_reft.core.rollout import Rollout
    from nested_reft.engine.layer_weights import RolloutWeights
    from nested_reft.engine.logp import completion_logp
    from nested_reft.engine.sampling import sample_completions
    from nested_reft.grading.grader import grade

    __version__: str

__all__ = [
    "Objective",
    "Rollout",
    "RolloutWeights",
    "completion_logp",
    "draw_skipped_layers",
    "grade",
    "group_advantages",
    "importance_weights",
    "nested_view",
    "off_policy_diagnostics",
    "policy_loss",
    "sample_completions",
]

_MODULES = {
    "Objective": "core.loss",
    "Rollout": "core.rollout",
    "RolloutWeights": "engine.layer_weights",
    "completion_logp": "engine.logp",
    "draw_skipped_layers": "core.layer_selection",
    "grade": "grading.grader",
    "group_advantages": "core.advantages",
    "importance_weights": "core.corrections",
    "nested_view": "core.layers",
    "off_policy_diagnostics": "core.diagnostics",
    "policy_loss": "core.loss",
    "sample_completions": "engine.sampling",
}


if not TYPE_CHECKING:  # or a type checker would take every name for one of the package's

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            try:
                return version("nested-reft")
            except PackageNotFoundError:  # sources on the path, not installed
                return "unknown"
        if name not in _MODULES:
            raise AttributeError(f"module 'nested_reft' has no attribute '{name}'")
        value = getattr(import_module(f"nested_reft.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
