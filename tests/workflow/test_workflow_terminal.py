"""What a call of Snakemake says on the terminal: a line per phase, the minutes left, a line per failed job."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
from workflow_harness import ROOT, Pipeline

from snakemake_logger_plugin_nested_reft import EXPECTED, LINE_SECONDS, QUIET_SECONDS, TARGETS, LogHandler

RULES = {
    name
    for path in (ROOT / "workflow").rglob("*")
    if path.is_file()
    for name in re.findall(r"^\s*rule (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
}
NAMED_BY_LOOPS = {
    "evaluate", "throughput", "step_speed", "gradients", "on_policy_gradients", "completion_gradients", "nestability",
    "influence",
}  # fmt: skip


class Terminal:
    """The handler, told of a run by records as Snakemake makes them, and what it wrote."""

    def __init__(self, live: bool = False, **settings: bool) -> None:
        names = ("dryrun", "verbose", "show_failed_logs", "stdout")
        common = SimpleNamespace(**(dict.fromkeys(names, False) | settings))
        self.handler = LogHandler(common, None)  # type: ignore[arg-type]
        self.stream = io.StringIO()
        self.stream.isatty = lambda: live  # type: ignore[method-assign]
        self.handler._stream = self.stream

    def say(self, text: str, now: float = 0.0, level: int = logging.INFO, **fields: Any) -> None:
        record = logging.LogRecord("snakemake", level, "", 0, text, None, None)
        record.__dict__.update(fields, created=now)
        self.handler.handle(record)

    def begin(self, cores: int = 2, **jobs: int) -> None:
        self.say("Provided cores", event=LogEvent.RESOURCES_INFO, cores=cores)
        self.say("Job stats", event=LogEvent.RUN_INFO, stats={**jobs, "default": 1, "total": sum(jobs.values()) + 1})

    def job(self, number: int, rule: str, start: float, end: float) -> None:
        self.say("", start, event=LogEvent.JOB_INFO, jobid=number, rule_name=rule)
        self.say("", end, event=LogEvent.JOB_FINISHED, job_id=number)

    def close(self) -> None:
        """As Snakemake does, and then Python."""
        self.handler.close()
        self.handler.close()

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_snakemake_finds_it_and_every_rule_has_a_phase() -> None:
    assert "nested-reft" in LoggerPluginRegistry().get_registered_plugins()
    assert set(EXPECTED) == (RULES | NAMED_BY_LOOPS) - TARGETS


def test_a_run_has_a_line_at_each_end_of_a_phase_and_one_at_its_own() -> None:
    terminal = Terminal()
    terminal.say("Building DAG of jobs...")
    terminal.begin(data=1, train=2, figure=1)
    terminal.job(1, "data", 0, 2)
    terminal.job(2, "train", 2, 62)
    terminal.say("Select jobs to execute...")
    terminal.job(3, "train", 62, 122)
    terminal.job(4, "figure", 122, 125)
    terminal.say("4 of 4", 125, event=LogEvent.PROGRESS, done=4, total=4)
    terminal.close()
    assert [line.partition(";")[0] for line in terminal.lines] == [
        "4 jobs, less than a minute left",
        "data: 1 job, 0:02 min of work",
        "  training 1 of 2",
        "training: 2 jobs, 2:00 min of work",
        "report: 1 job, 0:03 min of work",
        "all jobs are done, after 2:05 min",
    ]


def test_what_is_left_is_weighted_by_how_long_the_jobs_of_each_rule_took() -> None:
    """100 trainings of 60 s, one at a time: after ten of them, 90 min. The prior of 120 s on two cores is worked in."""
    terminal = Terminal()
    terminal.begin(cores=2, train=100)
    for number in range(10):
        terminal.job(number, "train", 60.0 * number, 60.0 * (number + 1))
    at_a_time = (600 + 2 * 120) / (600 + 120)
    assert terminal.lines[-1] == f"  training 10 of 100; about {90 / at_a_time:.0f} min left"


def test_a_job_that_runs_counts_for_what_is_left_of_it() -> None:
    terminal = Terminal()
    terminal.begin(cores=2, train=3, exact=1)
    terminal.job(1, "train", 0, 600)
    terminal.say("", 600, event=LogEvent.JOB_INFO, jobid=2, rule_name="train")
    terminal.say("", 600, event=LogEvent.JOB_INFO, jobid=3, rule_name="train")
    terminal.job(4, "exact", 600, 780)
    assert terminal.lines[-1] == "measurements: 1 job, 3:00 min of work; about 9 min left"  # 2 x 7 min, 1.53 at a time


def test_a_job_that_is_late_is_expected_to_go_on_for_as_long_as_it_is_late() -> None:
    terminal = Terminal()
    terminal.begin(cores=1, train=2, exact=1)
    terminal.job(1, "train", 0, 600)
    terminal.say("", 600, event=LogEvent.JOB_INFO, jobid=2, rule_name="train")
    terminal.job(3, "exact", 2395, 2400)
    assert terminal.lines[-1].endswith("about 20 min left")  # 10 min were expected, and 30 have passed


@pytest.mark.parametrize("live", [False, True])
def test_if_nothing_ends_for_minutes_the_oldest_job_says_how_far_it_is(tmp_path: Path, live: bool) -> None:
    terminal, log = Terminal(live=live), tmp_path / "warmup.log"
    terminal.handler._still(0.0)  # no run has begun
    terminal.begin(warmup=1, train=1)
    terminal.say("", 10, event=LogEvent.JOB_INFO, jobid=1, rule_name="warmup", log=[str(log)])
    terminal.say("", 20, event=LogEvent.JOB_INFO, jobid=2, rule_name="train", log=None)
    said = terminal.stream.getvalue()
    terminal.handler._still(20 + QUIET_SECONDS - 1)
    assert terminal.stream.getvalue() == said
    terminal.handler._still(10 + 360)
    assert terminal.stream.getvalue()[len(said) :].strip("\r\n\033[K") == "  after 6 min: warmup"
    terminal.handler._still(10 + 361)  # it was said just now
    log.write_text("step 1\nstep 2  44:10 left\n", encoding="utf-8")
    terminal.handler._still(10 + 720)
    text = terminal.stream.getvalue()[len(said) :]
    assert text.count("after") == 2
    assert "  after 12 min: step 2  44:10 left" in text
    assert text.count("\n") == (0 if live else 2)
    terminal.close()
    terminal.handler._still(10_000)
    assert "after 166 min" not in terminal.stream.getvalue()


def test_a_terminal_has_one_line_of_progress_that_is_written_over() -> None:
    terminal = Terminal(live=True)
    terminal.begin(train=3)
    terminal.job(1, "train", 0, 1)
    terminal.job(2, "train", 1, 2)
    terminal.job(3, "train", 2, 3)
    text = terminal.stream.getvalue()
    assert text.count("\n") == 2
    assert text.count("\r  training") == 2
    assert "\r\033[Ktraining: 3 jobs" in text


def test_a_log_gets_a_line_of_progress_once_a_minute() -> None:
    terminal = Terminal()
    terminal.begin(train=1000)
    for number in range(600):
        terminal.job(number, "train", number, number + 1)
    assert len(terminal.lines) == 1 + 600 / LINE_SECONDS


@pytest.mark.parametrize(
    ("log", "remote", "expected"),
    [
        ("step 1\nValueError: no\n", False, ["ValueError: no (log: {log})"]),
        ("nested-reft train: error: no disk\nbye\n", False, []),  # the job has said it on this terminal
        ("nested-reft train: error: no disk\nbye\n", True, ["nested-reft train: error: no disk (log: {log})"]),
        ("", False, ["Error in rule train, jobid: 7 (log: {log})"]),
    ],
)
def test_a_failed_job_has_one_line(tmp_path: Path, log: str, remote: bool, expected: list[str]) -> None:
    path = tmp_path / "a.log"
    path.write_text(log, encoding="utf-8")
    terminal = Terminal()
    if remote:
        terminal.say("", event=LogEvent.RESOURCES_INFO, nodes=8)
    terminal.begin(train=2)
    terminal.say("", event=LogEvent.JOB_INFO, jobid=7, rule_name="train")
    error = {"event": LogEvent.JOB_ERROR, "jobid": 7, "log": [str(path)]}
    command = {"event": LogEvent.ERROR, "exception": "RuleException"}
    terminal.say('RuleException:\nCalledProcessError in file "train.smk", line 29', level=logging.ERROR, **command)
    terminal.say("Error in rule train, jobid: 7", level=logging.ERROR, **error)
    terminal.say("Exiting because a job execution failed. Look below for error messages", level=logging.ERROR)
    last = "WorkflowError:\nAt least one job did not complete successfully."
    terminal.say(last, level=logging.ERROR, event=LogEvent.ERROR)
    terminal.close()
    stopped = "stopped: 0 of 2 jobs done, 1 failed; the same call continues from there"
    assert terminal.lines[1:] == [*(line.format(log=path) for line in expected), stopped]


def test_a_call_that_runs_no_job_says_what_snakemake_says() -> None:
    terminal = Terminal()
    terminal.say("Building DAG of jobs...")
    terminal.say("Nothing to be done.")
    terminal.say("An error", level=logging.ERROR)
    terminal.close()
    assert terminal.lines == ["An error", "Building DAG of jobs...", "Nothing to be done."]


def test_a_dry_run_says_all() -> None:
    terminal = Terminal(dryrun=True)
    terminal.begin(train=2)
    assert terminal.lines == ["Provided cores", "Job stats"]


@pytest.mark.slow
def test_a_failing_call_ends_with_its_error_and_no_traceback(pipeline: Pipeline) -> None:
    rule = pipeline.folder / "workflow/rules/data.smk"
    rule.write_text(rule.read_text(encoding="utf-8").replace("2> {log}", "--nonsense 2> {log}"), encoding="utf-8")
    done = pipeline.call("--keep-going", "results/smoke/data/test/heldout.jsonl", config="config/smoke.yaml")
    assert done.code != 0
    first, error, last = done.output.splitlines()[1:]  # before these, Snakemake names the profile
    assert first.startswith("1 job, ")
    assert error == (
        "nested-reft: error: unrecognized arguments: --nonsense (log: results/smoke/logs/data/test/heldout.log)"
    )
    assert last == "stopped: 0 of 1 job done, 1 failed; the same call continues from there"
