"""Which GPUs of a machine a job uses: `nested-reft on-gpu COUNT COMMAND...` runs a command on free ones.

Snakemake counts GPUs (`--resources gpu=8`) but does not say which one a job may use, so every job would use the first.
A job takes a GPU by locking a file with its name. The kernel holds the lock: the command and its children inherit it,
and it is released when the last of them ends, however it ends. If a scheduler has already chosen, exactly as many GPUs
are visible as the job asks for, and nothing is locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nested_reft.runtime.errors import UserError
from nested_reft.runtime.lines import write_line

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 1.0


class GpuError(UserError, RuntimeError):
    """The GPUs that a job asks for are not available; the message is for the user."""


def visible_gpus(environment: Mapping[str, str]) -> list[str] | None:
    """The GPUs to choose from: those in `CUDA_VISIBLE_DEVICES` if it is set, else the ids of all that the driver sees.

    None if there is no `nvidia-smi` to ask.
    """
    if VISIBLE in environment:
        return [name for name in environment[VISIBLE].split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    # Ids, not indices: in a container, or under a scheduler, another GPU may have the same index.
    return done.stdout.split() if done.returncode == 0 else []


def take_gpus(count: int, names: Sequence[str], folder: Path) -> list[str] | None:
    """Lock `count` of the named GPUs for this process and its children; None if fewer are free."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    for name in names:
        descriptor = os.open(folder / name.strip(), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        taken[name] = descriptor
        if len(taken) == count:
            for kept in taken.values():
                os.set_inheritable(kept, True)
            return list(taken)
    for descriptor in taken.values():
        os.close(descriptor)
    return None


def choose_gpus(count: int, environment: Mapping[str, str], folder: Path) -> list[str] | None:
    """Wait until `count` GPUs are free and lock them; None if there is nothing to choose.

    Raises GpuError if the machine has fewer.
    """
    names = visible_gpus(environment)
    if count == 0 or names is None or len(names) == count:
        return None
    if len(names) < count:
        seen = f", by {VISIBLE}={environment[VISIBLE]!r}" if VISIBLE in environment else ""
        raise GpuError(
            f"the job asks for {count} GPU(s), but {len(names)} can be seen{seen}; check the driver and {VISIBLE}, or "
            "lower `gpu` under `resources` in the config"
        )
    waiting = False
    while (chosen := take_gpus(count, names, folder)) is None:
        if not waiting:
            write_line(f"waiting for {count} of {len(names)} GPUs to be free")
        waiting = True
        time.sleep(POLL_SECONDS)
    return chosen


def run_on_gpus(count: int, command: Sequence[str], *, each: bool = False) -> None:
    """Replace this process by `command`, with the chosen GPUs in `CUDA_VISIBLE_DEVICES`.

    With `each` and several GPUs, torchrun starts it once per GPU, as the ranks of one job.
    """
    if not shutil.which(command[0]):
        raise GpuError(f"{command[0]}: no such command")
    folder = Path(tempfile.gettempdir()) / f"nested-reft-gpus-{os.getuid()}"
    chosen = choose_gpus(count, os.environ, folder)
    if chosen is not None:
        os.environ[VISIBLE] = ",".join(chosen)
    if each and count > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command = [*torchrun, "--no-python", *command]
    os.execvp(command[0], list(command))
