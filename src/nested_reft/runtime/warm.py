"""Jobs that start in a moment: a warm process imports the large packages once, and forks for each job.

The imports take five seconds of processor time (two for the report), and most jobs of a small experiment compute for
less. Snakemake's main
process starts the warm process with the first job and names its socket in `NESTED_REFT_WARM`; `nested-reft` hands its
arguments, environment, working directory and streams over, and stays as the job's stand-in: it passes on signals, and
ends as the job ends. If there is no warm process, or it cannot be reached, the job runs in the process of its own that
it would have anyway.

Only packages of others are imported before the fork, so a job runs the sources that are there when it starts. What may
not be shared between jobs is renewed: random states of `random` and numpy. The warm process ends with Snakemake, and
the jobs of a warm process that is killed end with it; if a stand-in is killed, so is its job.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

VARIABLE = "NESTED_REFT_WARM"
# What takes the time. `transformers` and `pydantic` alone import nothing, they do so name by name.
SETTINGS = ("pydantic.main", "pydantic.types", "pydantic.functional_validators")
COMPUTING = (*SETTINGS, "torch", "transformers.models.auto.modeling_auto", "transformers.models.qwen2.modeling_qwen2",
             "transformers.models.llama.modeling_llama", "transformers.tokenization_utils_tokenizers",
             "transformers.convert_slow_tokenizer", "transformers.integrations.mistral", "grimp")  # fmt: skip
REPORTING = (*SETTINGS, "pandas", "scipy.stats", "seaborn", "matplotlib.backends.backend_pdf",
             "matplotlib.backends.backend_svg")  # fmt: skip
# The sub-commands that are forked, and what each needs.
PACKAGES = {
    **dict.fromkeys(
        ("pretrain", "warmup", "train", "evaluate", "throughput", "step-speed", "on-policy-gradients", "gradients",
         "influence", "nestability"), COMPUTING,
    ),
    **dict.fromkeys(("collect", "tables", "claims", "figure", "page"), REPORTING),
}  # fmt: skip
STREAMS = (0, 1, 2)
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SERVE = (
    "import sys, nested_reft.runtime.warm as warm; address, parent, command = sys.argv[1:];"
    "warm.serve(warm.Path(address), int(parent), command)"
)
OFF = "off"  # the value of the variable with which a user turns this off
PR_SET_PDEATHSIG = 1
POLL_SECONDS = 1.0  # between two looks at whether the parent has ended


# --- the stand-in


def run_warm(arguments: Sequence[str]) -> int | None:
    """Have a warm process run this command, and return its exit code; None if there is none to do so.

    If a signal ended the job, the same one ends this process.
    """
    address = os.environ.get(VARIABLE)
    if not address or address == OFF or not arguments or arguments[0] not in PACKAGES:
        return None
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with link:
        try:
            link.connect(address)
            environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
            job = {"arguments": list(arguments), "environment": environment, "folder": os.getcwd()}
            number = _number(_hand_over(link, job))
        except OSError:
            return None
        if number is None:
            return None

        def pass_on(received: int, _: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, received)

        before = {name: signal.signal(name, pass_on) for name in PASSED_ON}
        status = _number(link)
        for name, handler in before.items():
            signal.signal(name, handler)
    if status is None:  # the warm process was killed, and the job with it
        status = signal.SIGKILL
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError):  # of SIGKILL, which has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _hand_over(link: socket.socket, job: Mapping[str, object]) -> socket.socket:
    """Send the job, whose text can be longer than a packet, in a file of its own beside the streams."""
    text = os.memfd_create("job")
    try:
        with os.fdopen(os.dup(text), "w", encoding="utf-8") as file:
            json.dump(job, file)
        descriptors = array.array("i", [text, *STREAMS])
        link.sendmsg([b"job"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    finally:
        os.close(text)
    return link


def _number(link: socket.socket) -> int | None:
    """The next number from the warm process; None if it is gone."""
    try:
        packet = link.recv(64)
    except ConnectionError:
        return None
    return int(packet) if packet else None


# --- the warm process


def address_of(process: int) -> Path:
    """Where the warm process of Snakemake's main process listens."""
    return Path(tempfile.gettempdir()) / f"nested-reft-warm-{os.getuid()}-{process}"


def start(address: Path, log: Path, threads: int, command: str) -> None:
    """Start a warm process that listens at `address` and ends with this process; its own messages go to `log`.

    What `command` needs is imported at once, what others need when the first of their jobs arrives.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # As Snakemake sets them for a job; the libraries read them when they are imported.
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "GOTO")}
    with log.open("wb") as file:
        subprocess.Popen(
            [sys.executable, "-c", SERVE, str(address), str(os.getpid()), command],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env={**os.environ, **limits},
        )  # fmt: skip


def serve(
    address: Path, parent: int, command: str, packages: Mapping[str, Sequence[str]] = MappingProxyType(PACKAGES)
) -> None:
    """Fork for each job that arrives, until `parent` has ended and no job is left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        # Listening comes first: a job that arrives while this process imports waits for it, and for no second import.
        listener.bind(str(address))
        try:
            listener.listen(128)
            server = _Server(listener, parent, packages)
            server.import_packages(command)
            server.run()
        finally:
            address.unlink(missing_ok=True)


class _Server:
    """Its selector watches the listener, the link to each stand-in and the end of each job."""

    def __init__(self, listener: socket.socket, parent: int, packages: Mapping[str, Sequence[str]]) -> None:
        self._listener, self._parent, self._packages = listener, parent, packages
        self._links: dict[int, socket.socket] = {}  # by the job's process
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def import_packages(self, command: str) -> None:
        """Import what a command needs and is not here yet."""
        if missing := [name for name in self._packages.get(command, ()) if name not in sys.modules]:
            for name in missing:
                with contextlib.suppress(ImportError):  # the job says so itself
                    import_module(name)
            _fill_tables()
            gc.collect()
            gc.freeze()  # or the collector's marks would copy pages that jobs share

    def run(self) -> None:
        """Serve until the parent has ended and no job is left."""
        while self._links or os.getppid() == self._parent:
            for key, _ in self._selector.select(POLL_SECONDS):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, int):
                    self._end(key.data, key.fileobj)
                else:  # a stand-in says nothing: it was killed
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)

    def _accept(self) -> None:
        link, _ = self._listener.accept()
        text, *streams = _received(link)
        with os.fdopen(text, encoding="utf-8") as file:
            file.seek(0)
            job = json.load(file)
        self.import_packages(job["arguments"][0])
        number = os.fork()
        if number == 0:
            self._selector.close()
            for other in (self._listener, link, *self._links.values()):
                other.close()
            _run_job(job, streams)
        for descriptor in streams:
            os.close(descriptor)
        self._links[number] = link
        self._selector.register(link, selectors.EVENT_READ, number)
        self._selector.register(os.pidfd_open(number), selectors.EVENT_READ, number)
        with contextlib.suppress(OSError):
            link.send(str(number).encode())

    def _end(self, number: int, descriptor: int) -> None:
        _, status = os.waitpid(number, 0)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        link = self._links.pop(number)
        with contextlib.suppress(KeyError):
            self._selector.unregister(link)
        with contextlib.suppress(OSError):
            link.send(str(status).encode())
        link.close()


def _fill_tables() -> None:
    """Let transformers compile the names of all models' weights, which it does when it loads the first one."""
    names = sys.modules.get("transformers.conversion_mapping")
    if fill := getattr(names, "get_checkpoint_conversion_mapping", None):  # not a name that is promised to stay
        fill("")


def _received(link: socket.socket) -> Sequence[int]:
    """The descriptors that came with a job: its text, and its streams."""
    descriptors = array.array("i")
    _, ancillary, *_ = link.recvmsg(16, socket.CMSG_SPACE(descriptors.itemsize * (1 + len(STREAMS))))
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    return descriptors.tolist()


def _run_job(job: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Become the job, in the process that was forked for it. Does not return."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for target, source in zip(STREAMS, streams, strict=True):
            os.dup2(source, target)
            os.close(source)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.argv = ["nested-reft", *job["arguments"]]
        _renew_random_states()
        # By name, and only here: the sources are read when the job starts.
        code = import_module("nested_reft.cli").main(job["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _renew_random_states() -> None:
    import random

    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
