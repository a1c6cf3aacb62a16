"""One process of several, started by torchrun: trains, and writes what it drew, saw and ended with to a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tiny_trl import NestedConfig, config, trainer_of


def main(folder: Path, strategy: str) -> None:
    # 2 processes x 2 rows x 2 micro-batches: each group of four is in one process; with 1 it is in both.
    micro = int(os.environ["MICRO"])
    args = config(
        folder / "out",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=micro,
        max_steps=3,
        ddp_backend="gloo",
    )
    trainer, recorder = trainer_of(args, NestedConfig(skip_percent=40, strategy=strategy))
    trainer.train()
    result = {
        "draws": [skipped for skipped, _ in trainer.batches],
        "completions": [batch["completion_ids"].tolist() for _, batch in trainer.batches],
        "prompts": [batch["prompt_ids"].tolist() for _, batch in trainer.batches],
        "weights": {name: tensor.double().sum().item() for name, tensor in trainer.model.state_dict().items()},
        "ess": [row["nested/ess"] for row in recorder.logs if "nested/ess" in row],
    }
    (folder / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
