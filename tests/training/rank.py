"""One rank of a training job: `nested-reft train` with a reward that an untrained model earns.

torchrun ... rank.py DIES_AT ARGUMENTS   # rank 1 ends without a word at step DIES_AT (0: never)
"""

from __future__ import annotations

import os
import sys

from tiny_training import grade_by_checksum

from nested_reft.cli import main
from nested_reft.rollouts import rewards
from nested_reft.training import run

rewards.grade = grade_by_checksum
plain = run.reft_step


def reft_step(*arguments: object) -> object:
    """The step, or the end."""
    if arguments[1] == int(sys.argv[1]) and os.environ.get("RANK") == "1":
        os._exit(9)
    return plain(*arguments)


run.reft_step = reft_step
sys.exit(main(["train", *sys.argv[2:]]))
