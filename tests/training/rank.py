"""One rank of a training job: `nested-reft train` with a reward that an untrained model earns.

torchrun ... rank.py DIES_AT ARGUMENTS   # rank 1 ends without a word at step DIES_AT (0: never)
"""

from __future__ import annotations

import os
import sys

from tiny_training import grade_by_checksum

from nested_reft.cli import main
from nested_reft.tasks import rewards
from nested_reft.training import trainer

rewards.grade = grade_by_checksum
plain = trainer.nested_rollout


def rollout(*arguments: object) -> object:
    """`nested_rollout`, or the end."""
    step = arguments[4]
    if step == int(sys.argv[1]) and os.environ.get("RANK") == "1":
        os._exit(9)
    return plain(*arguments)


trainer.nested_rollout = rollout
sys.exit(main(["train", *sys.argv[2:]]))
