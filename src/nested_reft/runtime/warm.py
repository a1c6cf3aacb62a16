"""Jobs that start in a moment: a warm process imports the large packages once, and forks for each job.

The imports take five seconds of processor time, and most jobs of a small experiment compute for less.

1. Snakemake starts the warm process (`start`) and puts the address of its socket in `NESTED_REFT_WARM`.
2. A job's command, the *client*, connects to it (`run_warm`) and sends its output streams, then one line of JSON: what
   to call, arguments, environment and working directory.
3. The warm process forks a *keeper* for the client and is ready for the next one (`serve`). Only the keeper reads what
   a client sends, so a bad client harms no other.
4. The keeper answers with one byte, forks the job, passes signals of the client on to it, and sends its exit code, with
   which the client ends (`_keep`). If client, keeper or job is killed, the other two end too.

A client that gets no answer runs its job in its own process, as it would without a warm process. If the warm process
is killed, jobs that have started go on. The socket is in a folder that only its user can enter, and both ends ask the
kernel whose process the other one is: a client hands over its environment, in which there may be tokens. Only packages
of others are imported before the fork, so a job runs the sources that are there when it starts.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

VARIABLE = "NESTED_REFT_WARM"
OFF = "off"  # the value of the variable with which a user turns this off
# What takes the time. `transformers` and `pydantic` alone import nothing, they do so name by name.
SETTINGS = ("pydantic.main", "pydantic.types", "pydantic.functional_validators")
COMPUTING = (*SETTINGS, "torch", "transformers.models.auto.modeling_auto", "transformers.models.qwen2.modeling_qwen2",
             "transformers.models.llama.modeling_llama", "transformers.tokenization_utils_tokenizers",
             "transformers.convert_slow_tokenizer", "transformers.integrations.mistral", "grimp")  # fmt: skip
REPORTING = (*SETTINGS, "pandas", "scipy.stats", "matplotlib.backends.backend_pdf",
             "matplotlib.backends.backend_svg")  # fmt: skip
SERVE = "import sys; from nested_reft.runtime import warm; warm.serve(int(sys.argv[1]), sys.argv[2:])"
STREAMS = (1, 2)  # output and errors; a job reads no input
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
LONGEST_LINE = 1 << 24  # characters; Linux allows far less for arguments and environment
POLL_SECONDS = 1.0  # between two looks at whether Snakemake has ended
PR_SET_PDEATHSIG = 1


def _is_ours(link: socket.socket) -> bool:
    """Whether the process at the other end is of this user."""
    process_user_group = struct.Struct("iII")
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, process_user_group.size)
    return bool(process_user_group.unpack(credentials)[1] == os.geteuid())


# --- the client


def run_warm(function: str, arguments: Sequence[str]) -> int | None:
    """Have the warm process call a function, "module:name", and return its exit code; None if there is none to do so.

    If a signal ended the job, the same one ends this process.
    """
    address = os.environ.get(VARIABLE, OFF)
    if address in ("", OFF):
        return None
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    job = {"function": function, "arguments": list(arguments), "environment": environment, "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(address)
            if not _is_ours(link):
                return None
            socket.send_fds(link, [b"\n"], STREAMS)
            link.sendall(json.dumps(job).encode() + b"\n")
            if not link.recv(1):
                return None
        except OSError:
            return None

        def pass_on(received: int, _: FrameType | None) -> None:
            with contextlib.suppress(OSError):
                link.send(bytes([received]))

        for number in PASSED_ON:
            signal.signal(number, pass_on)
        code = -signal.SIGKILL  # if no code comes: the keeper was killed, and the job with it
        with contextlib.suppress(ConnectionError, ValueError):
            code = int(link.recv(16))
    if code < 0:
        with contextlib.suppress(OSError):  # of SIGKILL, which has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


# --- the warm process


def start(log: Path, threads: int, packages: Sequence[str]) -> str:
    """Start a warm process, which ends with this one, and return its address, or "" if it did not start.

    Messages of it and of keepers go to `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # As Snakemake sets them for a job; the libraries read them when they are imported.
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "GOTO")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(os.getpid()), *packages], env={**os.environ, **limits},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, start_new_session=True, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as lines:
        return lines.readline().strip()


def serve(parent: int, packages: Sequence[str]) -> None:
    """Print the address, import packages, and fork a keeper for each client until the process `parent` has ended."""
    from multiprocessing import get_context  # here, as a client needs none of it

    folder = tempfile.mkdtemp(prefix="nested-reft-", dir="/tmp")  # mode 0700; TMPDIR can be too long for a socket
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/socket")
            # Listening comes first: a client that arrives while this process imports waits.
            listener.listen(128)
            print(f"{folder}/socket", flush=True)
            os.dup2(2, 1)
            for name in packages:
                with contextlib.suppress(ImportError):  # the job says so itself
                    import_module(name)
            gc.collect()
            gc.freeze()  # or the collector's marks would copy pages that jobs share
            while os.getppid() == parent:
                if select.select([listener], [], [], POLL_SECONDS)[0]:
                    with contextlib.suppress(OSError):  # such as a fork that fails: the client does without
                        link, _ = listener.accept()
                        with link:
                            if _is_ours(link):
                                get_context("fork").Process(target=_keep, args=(listener, link)).start()
    finally:
        shutil.rmtree(folder)


def _keep(listener: socket.socket, link: socket.socket) -> None:
    """Fork the job of a client, pass signals on to it, and tell the client how it ended. Runs in a process of its own,
    which ends with a traceback if the client sends anything else.
    """
    from multiprocessing import get_context

    listener.close()
    streams = dict(zip(STREAMS, socket.recv_fds(link, 1, len(STREAMS))[1], strict=True))
    with link.makefile(encoding="utf-8") as lines:
        job = json.loads(lines.readline(LONGEST_LINE))
    link.sendall(b"\n")  # before the job starts: then no job is run twice
    process = get_context("fork").Process(target=_run_job, args=(job, streams, link, os.getpid()))
    process.start()

    def pass_on() -> None:
        with contextlib.suppress(OSError):
            while received := link.recv(1):
                os.kill(process.pid, received[0])  # type: ignore[arg-type]
        process.kill()  # the client was killed

    threading.Thread(target=pass_on, daemon=True).start()
    process.join()
    with contextlib.suppress(OSError):
        link.sendall(str(process.exitcode).encode())


def _run_job(job: Mapping[str, Any], streams: Mapping[int, int], link: socket.socket, keeper: int) -> None:
    """Become the job, in the process that was forked for it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it was killed before the line above
        return
    link.close()
    for target, source in streams.items():
        os.dup2(source, target)
        os.close(source)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = ["nested-reft", *job["arguments"]]
    if "numpy" in sys.modules:  # a state that would be the same in each job; the one of `random` is renewed by a fork
        sys.modules["numpy"].random.seed()
    try:
        sys.exit(pkgutil.resolve_name(job["function"])(job["arguments"]))
    finally:
        atexit._run_exitfuncs()
