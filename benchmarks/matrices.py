"""Where packing pays: products of a few rows with a matrix, plain and packed for the processor in each precision.

    python benchmarks/matrices.py [--quick] [--threads N]

Decoding multiplies as many rows as it writes completions, by every matrix of the model. `ratio_spread` is how much
faster the packed product is than the plain one in float32 (in `engine/matrices.py`: `OneDnnMatrix` and `Int8Matrix`
over `Matrix`), by shape (in x out), rows and precision, in processor time; `gflops` is what each reaches, 2 x rows x in
x out operations. Packing itself is not timed, since it is done once per update. `MIN_PACKED` stands for what this
shows: of smaller matrices, plain products are faster.

Every product is with another copy of the matrix, until the copies take `COPIES` bytes: a model's next matrix is not in
the processor's cache either. A precision for which the processor has no instructions is left out.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import Spread, Work, parse_options, print_result, timed_pairs

from nested_reft.engine.matrices import MIN_PACKED, Int8Matrix, Matrix, OneDnnMatrix, why_no_precision

# in x out: of the laptop models, SmolLM2-135M, Qwen2.5-0.5B and -1.5B; around MIN_PACKED every kind, above it some
SHAPES = (
    (96, 96), (128, 512), (256, 256), (256, 768), (512, 512), (576, 576), (576, 960), (576, 1536), (1536, 576),
    (896, 896), (896, 1152), (896, 4864), (4864, 896), (1536, 8960), (896, 151936),
)  # fmt: skip
ROWS = (8, 32, 128)
COPIES = 256 * 2**20  # bytes: more than a processor's cache
MADE = {"float32": OneDnnMatrix, "bfloat16": OneDnnMatrix, "int8": Int8Matrix}


def measure(shape: tuple[int, int], rows: int, precisions: list[str], pairs: int) -> dict[str, dict[str, Any]]:
    """For each precision: `ratio` over the plain product (a spread), and `gflops`."""
    weight, x = torch.randn(shape) / shape[0] ** 0.5, torch.randn(rows, shape[0])
    count = max(2, min(64, COPIES // (4 * weight.numel())))
    plain = [Matrix(weight.clone()) for _ in range(count)]
    operations, found = 2 * rows * weight.numel() * count / 1e9, {}
    for name in precisions:
        cast = weight.to(torch.bfloat16) if name == "bfloat16" else weight
        packed = [MADE[name](cast) for _ in range(count)]
        done = timed_pairs(_products(packed, x), _products(plain, x), pairs, weight.device)
        found[name] = {
            "ratio": Spread.of([theirs / ours for ours, theirs in (pair.processor for pair in done)]),
            "gflops": operations / Spread.of([pair.processor[0] for pair in done]).median,
        }
        found.setdefault("plain", {"gflops": operations / Spread.of([pair.processor[1] for pair in done]).median})
    return found


def _products(matrices: list[Matrix], x: torch.Tensor) -> Work:
    """What a side does in a pair: one product with each matrix."""

    def work(_: int) -> None:
        for matrix in matrices:
            matrix(x)

    return work


def add_options(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own options."""
    parser.add_argument("--pairs", type=int, default=9, metavar="N", help="timed pairs of each product (default 9)")


def main() -> None:
    """Measure every shape, and print the JSON line."""
    options = parse_options(__doc__, add_options)
    shapes, rows = (SHAPES[:2], ROWS[:1]) if options.quick else (SHAPES, ROWS)
    precisions = [name for name in MADE if not why_no_precision(name, torch.device("cpu"))]
    result: dict[str, Any] = {"ratio_spread": {}, "gflops": {}, "min_packed": MIN_PACKED}
    for shape in shapes:
        name = f"{shape[0]}x{shape[1]}"
        for number in rows:
            found = measure(shape, number, precisions, options.pairs)
            parts = [f"{key} {value['gflops']:.0f}" for key, value in found.items()]
            parts += [f"{key} {value['ratio']} x plain" for key, value in found.items() if key != "plain"]
            packed = "packed" if shape[0] * shape[1] >= MIN_PACKED else "plain by MIN_PACKED"
            print(f"{name}, {number} rows ({packed}): GFLOP/s {', '.join(parts)}", flush=True)
            ratios = {key: value["ratio"] for key, value in found.items() if key != "plain"}
            result["ratio_spread"].setdefault(name, {})[str(number)] = ratios
            result["gflops"].setdefault(name, {})[str(number)] = {key: value["gflops"] for key, value in found.items()}
    print_result("matrices", options, result)


if __name__ == "__main__":
    main()
