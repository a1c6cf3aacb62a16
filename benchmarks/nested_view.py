"""How long it takes to draw the layers of a batch and make the nested view: it should cost next to nothing.

    python benchmarks/nested_view.py [--quick]

A Qwen2 of 28 layers with random weights of small width on the CPU; without --quick also one of Qwen2.5-1.5B's shape
on the meta device, which has shapes and no values: a view touches no weight, so the width should not matter. The
last line is one JSON object with the median of the slower model and the limit. The time is the wall clock's; beside it
stands the processor's, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from nested_reft.core.skipping import draw_skipped_layers, nested_view

LAYERS, SKIP_PERCENT, BORDER = 28, 15, 1
LIMIT_MILLISECONDS = 10
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 256,
}  # fmt: skip
# https://huggingface.co/Qwen/Qwen2.5-1.5B/blob/main/config.json
QWEN2_5_1_5B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
    "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip


def build(shape: dict[str, int], device: str) -> PreTrainedModel:
    """A Qwen2 of `LAYERS` layers; on the meta device it takes no memory."""
    with torch.device(device):
        return Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=LAYERS, **shape)).eval()


def measure(model: PreTrainedModel, runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds, of the clock and of the processor, of each of `runs` draws with the view made of it.

    A few before them are not counted. Raises RuntimeError where a view has the wrong number of layers.
    """
    generator = torch.Generator().manual_seed(0)
    clock, processor = [], []
    for run in range(-5, runs):
        start, start_processor = time.perf_counter(), time.process_time()
        skipped = draw_skipped_layers(LAYERS, SKIP_PERCENT, BORDER, generator)
        view = nested_view(model, skipped)
        elapsed, elapsed_processor = time.perf_counter() - start, time.process_time() - start_processor
        if len(view.model.layers) != LAYERS - len(skipped):
            raise RuntimeError(f"the view has {len(view.model.layers)} layers, but {len(skipped)} were left out")
        if run >= 0:
            clock.append(1000 * elapsed)
            processor.append(1000 * elapsed_processor)
    return clock, processor


def main() -> None:
    """Measure, and print a line for each model and the JSON object."""
    parser = argparse.ArgumentParser(description="Time the draw of the skipped layers and the nested view.")
    parser.add_argument("--quick", action="store_true", help="fewer runs, and the small model alone")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    runs = 50 if quick else 500
    models = {"small width, CPU": (SMALL, "cpu")}
    if not quick:
        models["Qwen2.5-1.5B's shape, meta device"] = (QWEN2_5_1_5B, "meta")

    medians = []
    for name, (shape, device) in models.items():
        clock, processor = measure(build(shape, device), runs)
        medians.append(statistics.median(clock))
        print(
            f"{LAYERS} layers, {name}: draw and view {medians[-1]:.2f} ms (median of {runs}; "
            f"{min(clock):.2f} to {max(clock):.2f}), {statistics.median(processor):.2f} ms of the processor"
        )
    result = {
        "benchmark": "nested_view", "milliseconds": round(max(medians), 4), "limit_milliseconds": LIMIT_MILLISECONDS,
        "layers": LAYERS, "runs": runs,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
