"""A correction or layer selection that is registered in one place reaches config, loss, tables, figures and docs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from config_docs import render
from synthetic import make_config
from valid_config import changed

from nested_reft.config.experiment import Config, parse_config
from nested_reft.config.jobs import train_settings
from nested_reft.config.method import RunCorrection
from nested_reft.config.run_table import run_table
from nested_reft.config.strict import ConfigError
from nested_reft.core import corrections, layer_selection
from nested_reft.core.corrections import CORRECTIONS, Correction, Parameter
from nested_reft.core.layer_selection import SELECTIONS, Selection, choose_skipped_layers
from nested_reft.core.loss import Objective, policy_loss
from nested_reft.evaluation.exact import exact_rows
from nested_reft.report.collect.collect import collect
from nested_reft.report.figures.style import look_of
from nested_reft.report.tables.accuracy import accuracy_sampled
from nested_reft.report.tidy import read_table
from nested_reft.training.run import make_objective

POWER = Parameter(1.0, lambda value: 0 < value <= 3, "in (0, 3]", "Exponent of the ratio.")


@pytest.fixture
def toy() -> Iterator[Correction]:
    """rho^power, registered for one test."""
    entry = Correction("toy", r"\rho_t^p", lambda r, p: (p["power"] * r.log_rho).exp(), "this test", {"power": POWER})
    corrections.register(entry)
    yield entry
    del CORRECTIONS["toy"]


@pytest.fixture
def last() -> Iterator[Selection]:
    """The last eligible layers, at most eight, registered for one test."""
    entry = Selection(
        "last", lambda c: c.eligible[-c.count :], "the last k", "this test", max_count=lambda n: min(n, 8)
    )
    layer_selection.register(entry)
    yield entry
    del SELECTIONS["last"]


def test_a_toy_correction_goes_through_config_and_loss(toy: Correction) -> None:
    config = parse_config(changed("corrections", {"base": {}, "toy": {"power": 2}}))
    (run,) = (r for r in run_table(config) if (r.size, r.dataset, r.correction, r.skip, r.seed)
              == ("tiny", "stories", "toy", 17, 1))  # fmt: skip
    settings = train_settings(config, run)
    assert json.loads(settings.canonical_json())["params"] == {"power": 2.0}
    objective = make_objective(run, settings.params, settings.training)
    assert (objective.correction, objective.params) == ("toy", {"power": 2.0})
    behavior, rho = torch.tensor([[-1.0, -2.0]]), torch.tensor([[0.5, 3.0]])
    logp = (behavior + rho.log()).requires_grad_()
    loss, metrics = policy_loss(objective, logp, behavior, torch.ones(1, 2), torch.tensor([2.0]), max_new_tokens=2)
    assert loss.item() == pytest.approx(-(0.25 + 9.0) * 2.0 / 2)
    assert metrics["weight_max"] == pytest.approx(9.0)
    loss.backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [pytest.approx([-0.25, -9.0])]


def test_a_toy_correction_is_in_tables_figures_docs_and_errors(toy: Correction, tmp_path: Path) -> None:
    config = make_config()
    config = config.model_copy(update={"corrections": {**config.corrections, "toy": RunCorrection(power=1.0)}})
    collect(tmp_path, config)
    table = accuracy_sampled(read_table(tmp_path, "runs"), config)[0]
    assert [row for row in table["model"] if row.startswith("toy, skip ")]
    assert "toy" in {row.correction for row in exact_rows(horizon=2, layers=4)}
    assert look_of("toy").color.startswith("#")
    page = render(Config.model_json_schema())
    assert r"| `toy` | $\rho_t^p$ | this test | `power`: in (0, 3], default `1`. Exponent of the ratio. |" in page
    with pytest.raises(ValueError, match=r"power must be in \(0, 3\], got 4"):
        Objective("toy", {"power": 4})
    with pytest.raises(ConfigError, match=r"corrections\.tox: unknown value 'tox', did you mean 'toy'\?"):
        parse_config(changed("corrections", {"base": {}, "tox": {}}))
    with pytest.raises(ConfigError, match=r"corrections\.toy\.power: must be in \(0, 3\], got 4"):
        parse_config(changed("corrections", {"base": {}, "toy": {"power": 4}}))


def test_a_name_is_taken_once(toy: Correction, last: Selection) -> None:
    with pytest.raises(ValueError, match="there is a correction 'toy' already"):
        corrections.register(toy)
    with pytest.raises(ValueError, match="there is a selection 'last' already"):
        layer_selection.register(last)


def test_a_toy_selection_goes_through_config_and_choice(last: Selection) -> None:
    settings = changed("layer_choice", {"strategies": ["last"]})
    config = parse_config(settings | {"skips": [0, 17]})
    assert {run.strategy for run in run_table(config) if run.skip} == {"last"}
    assert choose_skipped_layers("last", 10, 20, 1, batch_seed=0, run_seed=0) == (7, 8)
    with pytest.raises(ValueError, match="strategy 'last' can leave out only 8 of the 26 within border 1"):
        choose_skipped_layers("last", 28, 34, 1, batch_seed=0, run_seed=0)
    with pytest.raises(ConfigError, match=r"is 10, but 'last' can leave out only 8 of the 26 that border 1 leaves"):
        parse_config(settings | {"skips": [0, 34]})
    assert "| `last` | the last k | this test |" in render(Config.model_json_schema())
