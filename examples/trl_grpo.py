"""GRPO on arithmetic with TRL, its rollouts nested: the two lines that this changes are marked.

    pip install -e '.[trl]'
    python examples/trl_grpo.py --model Qwen/Qwen2.5-0.5B-Instruct

`--model` is a name on the hub or a folder; a model of any size runs on a CPU, a large one not in reasonable time.
"""

from __future__ import annotations

import argparse
import random

from datasets import Dataset
from trl import GRPOConfig

from nested_reft import grade

# 1 of 2. Without nested rollouts: from trl import GRPOTrainer
from nested_reft.integrations.trl import NestedConfig, NestedGRPOTrainer


def problems(count: int) -> Dataset:
    """Sums of two numbers, and their answers."""
    draw = random.Random(0)
    pairs = [(draw.randrange(2, 50), draw.randrange(2, 50)) for _ in range(count)]
    return Dataset.from_list([{"prompt": f"What is {a} + {b} ?", "answer": str(a + b)} for a, b in pairs])


def is_right(completions: list[str], answer: list[str], **_: object) -> list[float]:
    """The reward: 1 if the final answer of a completion is right, 0 otherwise."""
    return [float(grade(text, gold)) for text, gold in zip(completions, answer, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--completion-length", type=int, default=64)
    parser.add_argument("--output", default="results/trl_grpo")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone, and train in float32")
    options = parser.parse_args()

    args = GRPOConfig(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=options.completion_length,
        learning_rate=1e-6,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=options.cpu,
        bf16=not options.cpu,
        model_init_kwargs={"dtype": "float32"},
    )
    data = problems(256)
    # 2 of 2. Without nested rollouts: trainer = GRPOTrainer(options.model, is_right, args, data)
    trainer = NestedGRPOTrainer(options.model, is_right, args, data, nested=NestedConfig(10, correction="retrace"))
    trainer.train()


if __name__ == "__main__":
    main()
