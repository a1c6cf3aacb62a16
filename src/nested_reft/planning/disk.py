"""What an experiment leaves on disk."""

from __future__ import annotations

from dataclasses import dataclass

from nested_reft.config.experiment import Config
from nested_reft.config.run_table import all_runs
from nested_reft.config.sources import HubModel
from nested_reft.planning.costs import ADAMW_STATES, FLOAT32, VALUE_BYTES, trained_parameters
from nested_reft.planning.plan import warmups
from nested_reft.planning.shapes import Shape
from nested_reft.training.checkpoint import KEPT


@dataclass(frozen=True)
class Disk:
    """Bytes of weights that a size leaves on disk; exact."""

    size: str
    model: int
    policy: int
    policies: int
    checkpoint: int
    """Of one step: what is trained, and its optimizer states, in float32."""
    warmed_up: int = 0
    """The weights after each warm-up, in float32; 0 if there is none."""

    @property
    def checkpoints(self) -> int:
        """Of one run while it trains: those that are kept, and the one that is being written."""
        return (KEPT + 1) * self.checkpoint

    @property
    def total(self) -> int:
        """Without checkpoints, which are deleted when a run ends."""
        return self.model + self.warmed_up + self.policies * self.policy


def plan_disk(config: Config, size: str, shape: Shape) -> Disk:
    """What one size needs; a model of the hub is assumed to be stored in two bytes per parameter, like Qwen's."""
    dtype = VALUE_BYTES[config.training.dtype]
    stored = VALUE_BYTES["bfloat16"] if isinstance(config.sizes[size], HubModel) else FLOAT32
    return Disk(
        size,
        model=stored * shape.parameters,
        policy=dtype * shape.parameters,
        policies=sum(run.size == size for run in all_runs(config)),
        warmed_up=FLOAT32 * shape.parameters * warmups(config),
        checkpoint=FLOAT32 * (1 + ADAMW_STATES) * trained_parameters(shape, config.training),
    )
