"""The JSON lines of the benchmarks as one tidy table: one fact per row, with where it was measured.

    python benchmarks/tidy.py results/benchmarks.jsonl > docs/benchmarks.csv

The columns are benchmark, key (such as `skip_efficiency/small/12`; a spread has median, low and high), value, and the
machine's. Standard library only.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MACHINE = ("cpu", "gpu", "threads", "device", "python", "torch", "transformers", "trl")


def facts(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of each entry of a structure; of a spread's three numbers, as its median and quartiles."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from facts(entry, f"{key}/{name}" if key else name)
    elif isinstance(value, list):
        is_spread = "spread" in key or key.startswith("skip_speedup")
        names = ("median", "low", "high") if is_spread else range(1, len(value) + 1)
        for name, entry in zip(names, value, strict=True):
            yield f"{key}/{name}", entry
    else:
        yield key, value


def rows(lines: list[str]) -> Iterator[dict[str, Any]]:
    """One row per fact of each line."""
    for line in lines:
        result = json.loads(line)
        machine = {name: result.pop(name, "") for name in MACHINE}
        benchmark = result.pop("benchmark")
        for key, value in facts(result):
            yield {"benchmark": benchmark, "key": key, "value": value, **machine}


def main() -> None:
    """Read the file and print the table."""
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    writer = csv.DictWriter(sys.stdout, ("benchmark", "key", "value", *MACHINE), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(lines))


if __name__ == "__main__":
    main()
