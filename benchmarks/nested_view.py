"""How long it takes to draw the layers of a batch and make the nested view: it should cost next to nothing.

    python benchmarks/nested_view.py [--quick]

The layers of Qwen2.5-Math-1.5B, narrow on the CPU, and without --quick also at full width on the meta device, which has
shapes but no values: a view touches no weight, so the width should not matter.

Keys: `milliseconds`, the median of the slower model, and `limit_milliseconds`, what it may cost.
"""

from __future__ import annotations

import torch
from common import QUICK, SHAPES, Spread, parse_options, print_result, timed
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from nested_reft.core.layer_selection import draw_skipped_layers
from nested_reft.core.layers import nested_view

SHAPE = SHAPES["qwen2.5-math-1.5b"]
SKIP_PERCENT, BORDER = 15, 1
LIMIT_MILLISECONDS = 10
WARM_UP = 5


def measure(model: PreTrainedModel, runs: int) -> tuple[Spread, Spread]:
    """Wall-clock and processor milliseconds of `runs` draws with the view made of each.

    Raises RuntimeError if a view has the wrong number of layers.
    """
    num_layers, generator = model.config.num_hidden_layers, torch.Generator().manual_seed(0)

    def draw() -> int:
        skipped = draw_skipped_layers(num_layers, SKIP_PERCENT, BORDER, generator)
        return len(nested_view(model, skipped).model.layers) + len(skipped)

    done = [timed(draw, torch.device("cpu")) for _ in range(WARM_UP + runs)][WARM_UP:]
    if any(layers != num_layers for _, _, layers in done):
        raise RuntimeError(f"a view and what it leaves out do not have {num_layers} layers")
    return Spread.of([1000 * clock for clock, _, _ in done]), Spread.of([1000 * used for _, used, _ in done])


def main() -> None:
    """Measure, and print one line per model and the JSON line."""
    options = parse_options(__doc__)
    runs = 50 if options.quick else 500
    models = {"narrow, CPU": (SHAPE | QUICK, "cpu")}
    if not options.quick:
        models["full width, meta device"] = (SHAPE, "meta")
    slowest = 0.0
    for name, (shape, device) in models.items():
        with torch.device(device):
            model = Qwen2ForCausalLM(Qwen2Config(**shape)).eval()
        clock, processor = measure(model, runs)
        slowest = max(slowest, clock.median)
        print(f"{name}: draw and view {clock} ms, processor {processor} ms, {runs} runs", flush=True)
    result = {"milliseconds": slowest, "limit_milliseconds": LIMIT_MILLISECONDS, "runs": runs}
    print_result("nested_view", options, result)


if __name__ == "__main__":
    main()
