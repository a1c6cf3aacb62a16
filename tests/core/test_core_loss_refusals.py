"""What the loss and its objective refuse, and that the message names it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nested_reft.core.loss import Objective, policy_loss

MASK = torch.tensor([[True, True, True], [True, False, False]])
LOGP_B = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -0.1, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"correction": "retrase"}, "unknown correction 'retrase'; possible: base, unit"),
        ({"correction": "unit", "params": {"C": 2.0}}, "correction 'unit' has no parameter 'C'"),
        ({"correction": "retrace", "params": {"lambda": 1.5}}, r"lambda must be in \(0, 1\], got 1.5"),
        ({"correction": "tis_token", "params": {"C": 0.0}}, "C must be above 0, got 0"),
        ({"normalisation": "mean"}, "normalisation must be one of grpo, dr_grpo, bnpo, dapo, got 'mean'"),
        ({"advantage_baseline": "none"}, "advantage_baseline must be one of group_mean, leave_one_out, got 'none'"),
        (
            {"correction": "base", "params": {"clip_high": 0.3}},
            "correction 'base': set update_clip_low and update_clip_high",
        ),
        ({"correction": "gspo", "update_clip_high": 0.28}, "do nothing with 'gspo', which has its own clip"),
        ({"update_clip_low": 1.0}, r"update_clip_low must be in \(0, 1\), got 1.0"),
        ({"update_clip_high": 0.0}, "update_clip_high must be above 0, got 0.0"),
        ({"kl_coefficient": -0.1}, "kl_coefficient must not be negative, got -0.1"),
        ({"kl_coefficient": math.nan}, "kl_coefficient must not be negative, got nan"),
    ],
)
def test_an_objective_that_means_nothing_is_refused_when_it_is_made(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**switches)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logp_target": torch.zeros(3)}, r"logp_target must be \(B, T\), got \(3,\)"),
        ({"logp_behavior": LOGP_B[:, :2]}, r"logp_behavior is \(2, 2\), but logp_target is \(2, 3\)"),
        ({"logp_behavior": LOGP_B * math.nan}, "logp_behavior has a valid token whose log-probability is not finite"),
        ({"logp_target": LOGP_B * math.inf}, "logp_target has a valid token whose log-probability is not finite"),
        ({"mask": torch.zeros_like(MASK)}, "mask has no valid token"),
        ({"mask": MASK[:1]}, r"advantages \(1, 2\) has 2 completions, mask 1"),
        ({"advantages": torch.ones(1, 3)}, r"advantages \(1, 3\) has 3 completions, mask 2"),
        ({"advantages": torch.tensor([[1.0, math.nan]])}, "advantages has a value that is not finite"),
        ({"scale": torch.ones(2)}, r"scale is \(2,\), but must be \(2, 1\)"),
        ({"logp_old": LOGP_B[:1]}, r"logp_old is \(1, 3\), but logp_target is \(2, 3\)"),
        ({"logp_old": LOGP_B * math.nan}, "logp_old has a valid token whose log-probability is not finite"),
        ({"logp_reference": LOGP_B[:1]}, r"logp_reference is \(1, 3\), but logp_target is \(2, 3\)"),
        ({"logp_reference": None}, "logp_reference is missing, and kl_coefficient is not 0"),
    ],
)
@pytest.mark.parametrize("correction", ["base", "unit"])
def test_an_argument_that_does_not_fit_is_named(correction: str, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "logp_target": LOGP_B, "logp_behavior": LOGP_B, "mask": MASK, "advantages": torch.tensor([[1.5, -1.5]]),
        "scale": None, "logp_old": LOGP_B, "logp_reference": LOGP_B,
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=message):
        policy_loss(Objective(correction, kl_coefficient=0.1), **arguments, max_new_tokens=5)
