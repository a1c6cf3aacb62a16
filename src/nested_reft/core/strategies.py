"""How the layers that a behaviour model leaves out are chosen: one small function per strategy.

Of L layers, k = round(skip_percent / 100 * L) are left out, none within `border` of either end; "eligible" are the
layers that the border leaves.

| strategy     | the k layers                                                     | source                           |
|--------------|------------------------------------------------------------------|----------------------------------|
| `uniform`    | drawn without replacement, anew for each batch                   | Nested-ReFT                      |
| `contiguous` | a run of k, its start drawn for each batch                       | Gromov et al. 2024 (a block)     |
| `alternate`  | every second layer, k in all, the start drawn for each batch     | Fan et al. 2020 (every other)    |
| `static`     | drawn as in `uniform`, once for the whole run                    | ablation of the draw per batch   |
| `influence`  | the k of least block influence; ties: the lowest index           | Men et al. 2024, ShortGPT        |

Gromov et al. and Men et al. prune one block or set for good, Fan et al. prune a model trained for it; here the
weights stay and only the rollouts go without the layers. To add a strategy, write its function and its table entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from nested_reft.core.packed import positions
from nested_reft.core.skipping import count_and_eligible, decoder_layers, draw_skipped_layers, nested_view


@dataclass(frozen=True)
class _Choice:
    """What a strategy may read: `count` (k, at least 1) layers are to be chosen from `eligible`."""

    num_layers: int
    skip_percent: int
    border: int
    count: int
    eligible: range
    batch_seed: int
    run_seed: int
    influence: Callable[[], Tensor] | None


def _uniform(choice: _Choice) -> Iterable[int]:
    return _drawn(choice, choice.batch_seed)


def _static(choice: _Choice) -> Iterable[int]:
    return _drawn(choice, choice.run_seed)


def _contiguous(choice: _Choice) -> Iterable[int]:
    return _spaced(choice, 1)


def _alternate(choice: _Choice) -> Iterable[int]:
    most = (len(choice.eligible) + 1) // 2
    if choice.count > most:
        raise ValueError(
            f"skip_percent {choice.skip_percent} leaves out {choice.count} of {choice.num_layers} layers, but strategy "
            f"'alternate' can leave out only {most} of the {len(choice.eligible)} within border {choice.border}"
        )
    return _spaced(choice, 2)


def _influence(choice: _Choice) -> Iterable[int]:
    if choice.influence is None:
        raise ValueError("strategy 'influence' needs the argument influence")
    values = choice.influence().detach()
    if values.shape != (choice.num_layers,):
        raise ValueError(f"influence must be ({choice.num_layers},), got {tuple(values.shape)}")
    if not values.isfinite().all():
        raise ValueError(f"influence has a layer whose value is not finite: {values.tolist()}")
    # Python's sort is stable: of equal values the lowest index comes first.
    return sorted(choice.eligible, key=values.tolist().__getitem__)[: choice.count]


_CHOOSERS: dict[str, Callable[[_Choice], Iterable[int]]] = {
    "uniform": _uniform,
    "contiguous": _contiguous,
    "alternate": _alternate,
    "static": _static,
    "influence": _influence,
}
STRATEGIES = tuple(_CHOOSERS)


def choose_skipped_layers(
    strategy: str,
    num_layers: int,
    skip_percent: int,
    border: int,
    *,
    batch_seed: int,
    run_seed: int,
    influence: Callable[[], Tensor] | None = None,
) -> tuple[int, ...]:
    """The layers to leave out of a batch's rollouts: k ascending indices; () where k is 0.

    The seeds are the batch's and the run's own, for the strategies that draw. `influence` returns a value for each
    layer, (L,); only the strategy of that name calls it, and only where k is above 0. Raises ValueError for an
    unknown strategy, for what `draw_skipped_layers` refuses, for more layers than `alternate` can reach, and for an
    influence that is missing, of another shape, or not finite.
    """
    if strategy not in _CHOOSERS:
        raise ValueError(f"unknown strategy {strategy!r}; possible: {', '.join(STRATEGIES)}")
    count, eligible = count_and_eligible(num_layers, skip_percent, border)
    if count == 0:
        return ()
    choice = _Choice(num_layers, skip_percent, border, count, eligible, batch_seed, run_seed, influence)
    return tuple(sorted(_CHOOSERS[strategy](choice)))


def _drawn(choice: _Choice, seed: int) -> Iterable[int]:
    """The paper's draw."""
    generator = torch.Generator().manual_seed(seed)
    return draw_skipped_layers(choice.num_layers, choice.skip_percent, choice.border, generator)


def _spaced(choice: _Choice, step: int) -> Iterable[int]:
    """k eligible layers, each `step` after the one before; every start that leaves room for all is equally likely."""
    span = step * (choice.count - 1) + 1
    generator = torch.Generator().manual_seed(choice.batch_seed)
    start = int(torch.randint(len(choice.eligible) - span + 1, (1,), generator=generator))
    return choice.eligible[start : start + span : step]


@torch.no_grad()
def layer_influence(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Block influence of each layer (ShortGPT, Men et al. 2024): (L,) float64, on the CPU.

    1 - the mean, over the real tokens, of the cosine between the residual stream before and after the layer: 0 for
    a layer that changes nothing, 2 at most. input_ids, attention_mask: (P, S), left-padded, on the model's device.
    One forward without the language-model head, in evaluation mode; nothing is left on the model. Raises ValueError
    where the two shapes differ or no token is real.
    """
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
        raise ValueError(
            f"input_ids and attention_mask must both be (P, S), got {tuple(input_ids.shape)} and "
            f"{tuple(attention_mask.shape)}"
        )
    real = attention_mask.bool()
    if not real.any():
        raise ValueError("attention_mask has no real token")
    influences: list[Tensor] = []

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        cosine = F.cosine_similarity(before[real].double(), after[real].double(), dim=-1)
        influences.append(1 - cosine.mean())

    # A view of all layers has hooks and a mode of its own: the target keeps neither, whatever happens in forward.
    view = nested_view(model, ()).eval()
    for layer in decoder_layers(view):
        layer.register_forward_hook(record, with_kwargs=True)
    view.base_model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions(real), use_cache=False
    )  # fmt: skip
    return torch.stack(influences).cpu()
