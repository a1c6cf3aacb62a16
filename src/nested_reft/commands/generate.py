"""`nested-reft generate`: one set of generated problems."""

from __future__ import annotations

import argparse

from nested_reft.config.sources import DataSettings, GeneratedProblems
from nested_reft.config.strict import parse
from nested_reft.data.problems import generate_problems
from nested_reft.data.records import write_problems
from nested_reft.runtime.files import write_json
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Make the problems of one data set or benchmark, and record that they were made here."""
    settings = parse(DataSettings, options.settings, "--settings")
    assert isinstance(settings.problems, GeneratedProblems), "`fetch-data` fetches the others"
    problems = generate_problems(settings.problems, settings.role, settings.name)
    write_problems(options.output, problems)
    record = {"name": settings.name, "role": settings.role, "origin": "generated", "rows_kept": len(problems)}
    write_json(options.provenance, record)
    Progress(f"generate {settings.role} {settings.name}").log(f"{len(problems)} problems")
