"""What a call of Snakemake says on the terminal: a line per phase with the minutes left, and a line per failed job.
If nothing ends for minutes, a line says how far a job that runs is, by its own log.

A logger plugin of Snakemake, which finds it by the name of this package; `logger: nested-reft` in the workflow's
profile turns it on. Dry runs, `--verbose` and all that is no run of jobs look as they do without it, and Snakemake's
own log in `.snakemake/log` has everything.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from logging import WARNING, LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# The phases with their rules, and the seconds that a job of each takes in the default experiment (docs/benchmarks.md).
PHASES = {
    "data": {"data": 0.5, "check": 0.5, "lock_hub": 0.5},
    "models": {"model": 181.0, "warmup": 181.0, "influence": 5.0},
    "training": {"train": 6.6},
    "evaluation": {"evaluate": 3.7},
    "measurements": {
        "exact": 5.5,
        "throughput": 6.8,
        "step_speed": 14.2,
        "on_policy_gradients": 37.0,
        "gradients": 37.0,
        "completion_gradients": 5.0,
        "nestability": 5.0,
    },
    "report": {
        "settings": 0.1,
        "collect": 3.8,
        "presentation_tables": 1.5,
        "claims": 1.5,
        "figure": 1.5,
        "page": 1.5,
    },
}
OTHER = "other jobs"  # of a workflow that has this one as a module
TARGETS = {"all", "default", "figures", "tables"}  # rules without a command
EXPECTED = {rule: seconds for rules in PHASES.values() for rule, seconds in rules.items()}
# How many seconds of the default experiment stand against what was measured so far.
PRIOR_SECONDS = 120.0
LINE_SECONDS = 60.0  # between two lines of progress, if they cannot be written over
QUIET_SECONDS = 300.0  # in which no job has begun or ended, before one that runs is asked how far it is
# What Snakemake says before and after the error of a job.
NO_NEWS = ("CalledProcessError in file", "At least one job did not complete successfully")


@dataclass(frozen=True)
class Running:
    """A job that has begun: its rule, the time, and its log files."""

    rule: str
    since: float
    logs: Sequence[str]


class Estimate:
    """How much of a run is left, by the jobs of each rule: those that wait, that run, and how long others took."""

    def __init__(self, jobs: dict[str, int], cores: int, now: float) -> None:
        self.jobs, self.start, self._cores = jobs, now, cores
        self.running: dict[int, Running] = {}
        self.done: defaultdict[str, list[float]] = defaultdict(list)

    def seconds(self, rule: str) -> float:
        """What a job of this rule takes: the mean of those that have ended, or what is expected at this run's pace."""
        if ended := self.done[rule]:
            return sum(ended) / len(ended)
        measured = sum(sum(ended) for ended in self.done.values())
        expected = sum(EXPECTED.get(other, 0.0) * len(ended) for other, ended in self.done.items())
        return EXPECTED.get(rule, 0.0) * (measured + PRIOR_SECONDS) / (expected + PRIOR_SECONDS)

    def minutes_left(self, now: float) -> str:
        """In words. So many jobs run at a time as did so far on average, at first one per core.

        Of a job that has taken longer than expected nothing else is known: it is expected to go on for as long as it is
        late.
        """
        rest = [abs(self.seconds(job.rule) - (now - job.since)) for job in self.running.values()]
        started = Counter(job.rule for job in self.running.values())
        waiting = {rule: count - len(self.done[rule]) - started[rule] for rule, count in self.jobs.items()}
        work = sum(rest) + sum(count * self.seconds(rule) for rule, count in waiting.items())
        busy = sum(map(sum, self.done.values())) + sum(now - job.since for job in self.running.values())
        at_a_time = (busy + PRIOR_SECONDS * self._cores) / (now - self.start + PRIOR_SECONDS)
        minutes = max([work / max(at_a_time, 1.0), *rest]) / 60
        return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


class LogHandler(LogHandlerBase):
    """Writes the lines; Snakemake gives it its own filter and format for what is passed on."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self._stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self._before: list[str] = []  # what is said before the jobs are known, for a call that runs none
        self._cores, self._failed, self._last_line, self._last_event, self._remote = 1, 0, 0.0, 0.0, False
        self._run: Estimate | None = None
        self._ended = self._live = False
        self._no_more = threading.Event()

    def emit(self, record: LogRecord) -> None:
        """Take one message of Snakemake."""
        event, now = getattr(record, "event", None), record.created
        self._last_event = now
        if self.common_settings.dryrun or self.common_settings.verbose:
            self._write(("\n" if event == LogEvent.JOB_INFO else "") + self.format(record))
        elif event == LogEvent.RESOURCES_INFO:
            self._cores = int(getattr(record, "cores", None) or self._cores)
            self._remote |= hasattr(record, "nodes")
        elif event == LogEvent.RUN_INFO:
            jobs = {rule: count for rule, count in record.__dict__["stats"].items() if rule not in {"total", *TARGETS}}
            self._run, self._last_line = Estimate(jobs, self._cores, now), now
            self._write(f"{_jobs(sum(jobs.values()))}, {self._run.minutes_left(now)}")
            threading.Thread(target=self._watch, daemon=True).start()
        elif self._run and event in EVENTS:
            EVENTS[event](self, self._run, record)
        elif event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR, LogEvent.SHELLCMD) or record.levelno >= WARNING:
            text = self.format(record)
            if not (self._failed and event is None) and not any(known in text for known in NO_NEWS):
                self._write(text)
        elif not self._run and event is None:
            self._before.append(self.format(record))

    def close(self) -> None:
        """Say what is left to say. Snakemake calls this, and Python once more when it ends."""
        self._no_more.set()
        if self._run is None:
            for text in self._before:
                self._write(text)
            self._before = []
        elif not self._ended:
            self._ended = True
            done, total = sum(map(len, self._run.done.values())), sum(self._run.jobs.values())
            failed = f", {self._failed} failed" if self._failed else ""
            self._write(f"stopped: {done} of {_jobs(total)} done{failed}; the same call continues from there")
        super().close()

    def _started(self, run: Estimate, record: LogRecord) -> None:
        job = record.__dict__
        if job["rule_name"] in run.jobs:
            run.running[job["jobid"]] = Running(job["rule_name"], record.created, job.get("log") or [])

    def _watch(self) -> None:
        """In a thread of its own: Snakemake has nothing to say while jobs run."""
        while not self._no_more.wait(LINE_SECONDS):
            self.acquire()
            try:
                self._still(time.time())
            finally:
                self.release()

    def _still(self, now: float) -> None:
        """How far the job is that has run for longest, if nothing was said for long."""
        if not self._run or self._ended or not self._run.running or now - self._last_event < QUIET_SECONDS:
            return
        self._last_event = now
        job = min(self._run.running.values(), key=lambda job: job.since)
        line = f"  after {(now - job.since) / 60:.0f} min: {_last_line(job.logs) or job.rule}"
        if self._stream.isatty():
            self._write_over(line)
        else:
            self._write(line)

    def _finished(self, run: Estimate, record: LogRecord) -> None:
        job, now = run.running.pop(record.__dict__["job_id"], None), record.created
        if job is None:
            return
        run.done[job.rule].append(now - job.since)
        phase = _phase(job.rule)
        done, total = _count(run, phase)
        if done == total:
            seconds = sum(sum(run.done[rule]) for rule in run.jobs if _phase(rule) == phase)
            self._write(f"{phase}: {_jobs(total)}, {_clock(seconds)} of work; {run.minutes_left(now)}")
        elif self._stream.isatty():
            self._write_over(_progress(run, now))
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._write(_progress(run, now))

    def _error(self, run: Estimate, record: LogRecord) -> None:
        """One line: what the job's log says last, and where it is; none if the job has said it here itself."""
        job = record.__dict__
        run.running.pop(job["jobid"], None)
        self._failed += 1
        if self.common_settings.show_failed_logs:
            self._write(self.format(record))
            return
        logs: Sequence[str] = job["log"] or []
        reason, own = _reason(logs)
        if self._remote or not own:
            self._write(f"{reason or record.getMessage()} (log: {', '.join(logs) or 'none'})")

    def _progressed(self, run: Estimate, record: LogRecord) -> None:
        if record.__dict__["done"] == record.__dict__["total"]:
            self._ended = True
            self._write(f"all jobs are done, after {_clock(record.created - run.start)}")

    def _write(self, text: str) -> None:
        self._stream.write(("\r\033[K" if self._live else "") + text + "\n")
        self._stream.flush()
        self._live = False

    def _write_over(self, text: str) -> None:
        """A line that the next one replaces."""
        self._stream.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\033[K")
        self._stream.flush()
        self._live = True


EVENTS = {
    LogEvent.JOB_INFO: LogHandler._started,
    LogEvent.JOB_FINISHED: LogHandler._finished,
    LogEvent.JOB_ERROR: LogHandler._error,
    LogEvent.PROGRESS: LogHandler._progressed,
}


def _phase(rule: str) -> str:
    return next((phase for phase, rules in PHASES.items() if rule in rules), OTHER)


def _count(run: Estimate, phase: str) -> tuple[int, int]:
    """How many jobs of a phase are done, of how many."""
    rules = [rule for rule in run.jobs if _phase(rule) == phase]
    return sum(len(run.done[rule]) for rule in rules), sum(run.jobs[rule] for rule in rules)


def _progress(run: Estimate, now: float) -> str:
    """The phases that have begun and not ended."""
    counts = {phase: _count(run, phase) for phase in [*PHASES, OTHER]}
    open_phases = [f"{phase} {done} of {total}" for phase, (done, total) in counts.items() if 0 < done < total]
    return f"  {', '.join(open_phases)}; {run.minutes_left(now)}"


def _reason(logs: Iterable[str]) -> tuple[str, bool]:
    """The last error in a job's log that `nested-reft` wrote, or else the last line; and which of the two."""
    lines = _lines(logs)
    ours = [line for line in lines if line.startswith("nested-reft ") and ": error: " in line]
    return (ours or lines or [""])[-1], bool(ours)


def _last_line(logs: Iterable[str]) -> str:
    return (_lines(logs) or [""])[-1]


def _lines(logs: Iterable[str]) -> list[str]:
    return [
        line
        for log in map(Path, logs)
        if log.is_file()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]


def _jobs(count: int) -> str:
    return f"{count} job" + "s" * (count != 1)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
