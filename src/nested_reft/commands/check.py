"""`nested-reft check`: verify the sources of an experiment; training starts when the file that this writes exists."""

from __future__ import annotations

import argparse
from pathlib import Path

from nested_reft.config.checks import CheckSettings
from nested_reft.config.sources import HubModel
from nested_reft.config.strict import parse
from nested_reft.tasks.lengths import check_lengths
from nested_reft.tasks.policy import load_config, load_tokenizer
from nested_reft.tasks.prompts import encode_prompts, end_token_ids
from nested_reft.tasks.provenance import check_sources
from nested_reft.tasks.records import read_problems
from nested_reft.training.pretrain import build_config, build_tokenizer


def run(options: argparse.Namespace) -> None:
    """Verify all fetched data sets and models against the lock file, and write a summary of them.

    With settings, the prompts are made as each model will read them, and held against its positions.
    """
    if options.settings:
        _check_requests(parse(CheckSettings, options.settings, "--settings"), options.root)
    check_sources(options.provenance, options.lock, options.output)


def _check_requests(settings: CheckSettings, root: Path) -> None:
    """Raise DataError if a model cannot be given what is asked of it; data and models are in the folder `root`."""
    for size, model in settings.sizes.items():
        folder = root / "models" / size
        if isinstance(model, HubModel):
            tokenizer, config = load_tokenizer(folder), load_config(folder)
        else:  # need not be made yet
            tokenizer = build_tokenizer(settings.prompt)
            config = build_config(model, tokenizer)
        end_token_ids(settings.prompt, tokenizer)
        for request in settings.requests:
            problems = read_problems(root / "data" / request.role / f"{request.problems}.jsonl")
            prompts = encode_prompts(
                [problem.question for problem in problems], settings.prompt, tokenizer, request.max_prompt_tokens
            )
            check_lengths(str(folder), config, prompts, request.new_tokens, request.key, request.problems)
