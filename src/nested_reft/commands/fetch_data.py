"""`nested-reft fetch-data`: one set of problems from the hub or its mirror."""

from __future__ import annotations

import argparse

from nested_reft.config.sources import DataSettings, HubProblems
from nested_reft.config.strict import parse
from nested_reft.data.hub import load_problems
from nested_reft.data.lock import locked_commit, read_lock
from nested_reft.data.provenance import verify
from nested_reft.data.records import write_problems
from nested_reft.data.repositories import mirror_from_environment
from nested_reft.runtime.files import write_json
from nested_reft.runtime.progress import Progress


def run(options: argparse.Namespace) -> None:
    """Fetch one data set or benchmark, verify it against the lock file, and record where it came from."""
    settings = parse(DataSettings, options.settings, "--settings")
    assert isinstance(settings.problems, HubProblems), "`generate` makes the others"
    progress = Progress(f"fetch-data {settings.role} {settings.name}")
    commit = locked_commit(read_lock(options.lock), settings.problems)
    problems, provenance = load_problems(settings.problems, mirror_from_environment(), commit)
    verify(provenance, options.lock, progress)
    write_problems(options.output, problems)
    write_json(options.provenance, {"name": settings.name, "role": settings.role, **provenance})
    progress.log(
        f"{len(problems)} problems from {provenance['origin']}; {provenance['rows_dropped_empty']} rows dropped for an "
        "empty question or answer"
    )
    if repeated := provenance["rows_repeated"]:
        line = f"{repeated} of the {len(problems)} problems repeat another, word for word; all are kept"
        progress.log(line)
        print(f"fetch-data  {settings.role} {settings.name}: {line}", flush=True)
