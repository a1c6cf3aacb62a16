"""Layer selection: which layers of the target a batch's rollouts leave out.

Of L layers, k = round(skip_percent / 100 * L) are left out, none of them within `border` of either end; "eligible" are
the layers that the border leaves. `SELECTIONS` is the one registry: configuration, generated docs and error messages
read it, so a new strategy is one function and its entry here. torch is imported only when layers are drawn, since
the configuration reads this module and must not wait for it.

Gromov et al. and Men et al. prune a block or a set of layers for good, and Fan et al. prune a model trained for it;
here the weights stay and only the rollouts go without the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def num_skipped(num_layers: int, skip_percent: int) -> int:
    """k = round(skip_percent / 100 * L), the number of layers that a rollout leaves out."""
    return round(skip_percent / 100 * num_layers)


def count_and_eligible(num_layers: int, skip_percent: int, border: int) -> tuple[int, range]:
    """How many layers to leave out, and from which: k, and the indices not within `border` of either end.

    Raises ValueError for a share outside [0, 100), a negative border, or fewer than k layers to choose from.
    """
    if not 0 <= skip_percent < 100:
        raise ValueError(f"skip_percent must be in [0, 100), got {skip_percent}")
    if border < 0:
        raise ValueError(f"border must not be negative, got {border}")
    count, eligible = num_skipped(num_layers, skip_percent), range(border, num_layers - border)
    if count > len(eligible):
        raise ValueError(
            f"skip_percent {skip_percent} leaves out {count} of {num_layers} layers, but border {border} leaves only "
            f"{len(eligible)} to choose from"
        )
    return count, eligible


def draw_skipped_layers(
    num_layers: int, skip_percent: int, border: int = 1, generator: torch.Generator | None = None
) -> tuple[int, ...]:
    """Draw the layers to leave out, uniformly without replacement from the eligible ones, as we read the paper.

    Args:
        num_layers: L, the decoder layers of the target.
        skip_percent: the share to leave out, in [0, 100).
        border: so many layers at either end are never left out.
        generator: of the draw; None for torch's global one. Nothing is drawn from it if k is 0.

    Returns:
        k ascending layer indices, from 0.

    Raises:
        ValueError: an argument is out of range, or the border leaves fewer than k layers to choose from.
    """
    count, eligible = count_and_eligible(num_layers, skip_percent, border)
    return tuple(sorted(_draw(count, eligible, generator))) if count else ()


def _draw(count: int, eligible: Sequence[int], generator: torch.Generator | None) -> list[int]:
    import torch

    return [eligible[index] for index in torch.randperm(len(eligible), generator=generator)[:count].tolist()]


@dataclass(frozen=True)
class Choice:
    """What a selection may read: `count` (k, at least 1) layers are to be chosen from `eligible`."""

    num_layers: int
    count: int
    eligible: range
    batch_seed: int
    run_seed: int
    influence: Callable[[], Tensor] | None


@dataclass(frozen=True)
class Selection:
    """One entry of the registry. `max_count`: how many of so many eligible layers it can leave out at most.

    influence_kind: the influence that it reads, if any. `block`: how much a layer changes the residual stream of the
    batch's prompts; `ablation`: the KL of leaving it out, measured once before the run. `engine/layer_influence.py` has
    both.
    adapts: whether the caller bounds k for each batch (`training/adaptive.py`).
    """

    name: str
    choose: Callable[[Choice], Iterable[int]]
    layers: str
    source: str
    max_count: Callable[[int], int] = lambda eligible: eligible
    influence_kind: Literal["block", "ablation"] | None = None
    adapts: bool = False


SELECTIONS: dict[str, Selection] = {}


def register(selection: Selection) -> Selection:
    """Add a selection under its name. Raises ValueError if the name is taken."""
    if selection.name in SELECTIONS:
        raise ValueError(f"there is a selection '{selection.name}' already")
    SELECTIONS[selection.name] = selection
    return selection


def choose_skipped_layers(
    strategy: str,
    num_layers: int,
    skip_percent: int,
    border: int,
    *,
    batch_seed: int,
    run_seed: int,
    influence: Callable[[], Tensor] | None = None,
    max_skipped: int | None = None,
) -> tuple[int, ...]:
    """The layers that a batch's rollouts leave out: k ascending indices; () if k is 0.

    Args:
        strategy: a key of `SELECTIONS`.
        num_layers: L, the decoder layers of the target.
        skip_percent: the share to leave out, in [0, 100).
        border: so many layers at either end are never left out.
        batch_seed: the batch's own seed, for selections that draw for each batch.
        run_seed: the run's seed, for selections that draw once.
        influence: returns a value per layer, (L,), of the selection's `influence_kind`; called only if it has one
            and k > 0.
        max_skipped: leave out no more than so many layers, 1 or more; None: k.

    Raises:
        ValueError: the strategy is unknown, `draw_skipped_layers` would refuse the numbers, the strategy cannot leave
            out so many layers, `max_skipped` is below 1, or the influence is missing,
            has another shape, or is not finite.
    """
    if strategy not in SELECTIONS:
        raise ValueError(f"unknown strategy {strategy!r}; possible: {', '.join(SELECTIONS)}")
    count, eligible = count_and_eligible(num_layers, skip_percent, border)
    if count == 0:
        return ()
    selection = SELECTIONS[strategy]
    if count > (most := selection.max_count(len(eligible))):
        raise ValueError(
            f"skip_percent {skip_percent} leaves out {count} of {num_layers} layers, but strategy '{strategy}' can "
            f"leave out only {most} of the {len(eligible)} within border {border}"
        )
    if max_skipped is not None:
        if max_skipped < 1:
            raise ValueError(f"max_skipped must be 1 or more, got {max_skipped}")
        count = min(count, max_skipped)
    if selection.influence_kind and influence is None:
        raise ValueError(f"strategy '{strategy}' needs the argument influence: {selection.influence_kind} influence")
    choice = Choice(num_layers, count, eligible, batch_seed, run_seed, influence)
    return tuple(sorted(selection.choose(choice)))


def _drawn(choice: Choice, seed: int, among: Sequence[int] | None = None) -> Iterable[int]:
    import torch

    return _draw(choice.count, choice.eligible if among is None else among, torch.Generator().manual_seed(seed))


def _spaced(choice: Choice, step: int) -> Iterable[int]:
    """k eligible layers, `step` apart; every start that leaves room for all of them is equally likely."""
    import torch

    span = step * (choice.count - 1) + 1
    generator = torch.Generator().manual_seed(choice.batch_seed)
    start = int(torch.randint(len(choice.eligible) - span + 1, (1,), generator=generator))
    return choice.eligible[start : start + span : step]


def _half(eligible: int) -> int:
    return (eligible + 1) // 2


def _least(choice: Choice, count: int) -> Sequence[int]:
    assert choice.influence is not None, "choose_skipped_layers checks it"
    values = choice.influence().detach()
    if values.shape != (choice.num_layers,):
        raise ValueError(f"influence must be ({choice.num_layers},), got {tuple(values.shape)}")
    if not values.isfinite().all():
        raise ValueError(f"influence has a layer whose value is not finite: {values.tolist()}")
    # Python's sort is stable: of equal values the lowest index comes first.
    return sorted(choice.eligible, key=values.tolist().__getitem__)[:count]


for _entry in (
    Selection("uniform", lambda c: _drawn(c, c.batch_seed),
              "drawn without replacement, again for each batch", "Nested-ReFT, as we read it"),
    Selection("contiguous", lambda c: _spaced(c, 1),
              "a run of k, its start drawn for each batch", "Gromov et al. 2024 (a block)"),
    Selection("alternate", lambda c: _spaced(c, 2),
              "every second layer, k in all, the start drawn for each batch", "Fan et al. 2020 (every other)",
              max_count=_half),
    Selection("static", lambda c: _drawn(c, c.run_seed),
              "drawn as in `uniform`, once for the whole run", "ablation of the draw per batch"),
    Selection("influence", lambda c: _least(c, c.count), "the k of least block influence; ties: the lowest index",
              "Men et al. 2024, ShortGPT", influence_kind="block"),
    Selection("least_half", lambda c: _drawn(c, c.batch_seed, _least(c, _half(len(c.eligible)))),
              "drawn for each batch from the half (rounded up) of least ablation influence", "ours",
              max_count=_half, influence_kind="ablation"),
    Selection("least", lambda c: _least(c, c.count),
              "the k of least ablation influence, for the whole run; ties: the lowest index", "ours",
              influence_kind="ablation"),
    Selection("adaptive", lambda c: _drawn(c, c.batch_seed),
              "drawn as in `uniform`, but as many, up to k, as keep the effective sample size above a target", "ours",
              adapts=True),
):  # fmt: skip
    register(_entry)
