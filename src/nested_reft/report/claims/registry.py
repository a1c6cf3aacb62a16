"""The registry of the claims: what each says, and the limits that a cell is held against.

All outputs take the words from here: tables, report, terminal and, by a test, the README. C6 is no claim of the paper.
It is a condition of the experiment: where the baseline gains little, a run that learns nothing would be on par too, so
C5 is not assessable there. C7 is a question of ours, asked if behaviour policies are timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from nested_reft.config.experiment import Config
from nested_reft.report.formatting import NOT_RESOLVED, two_digits
from nested_reft.report.statistics.intervals import DIFFERENCE, POSITIVE, SQUARE, Limits, Scale

NO_SPREAD = "without spread"
PAPER, OURS = "not available to us", "no claim of the paper"
# What the report requires if no configuration says otherwise: of a speed-up, and of the baseline's accuracy.
MINIMUM_SPEEDUP, MINIMUM_GAIN = 1.0, 0.10


@dataclass(frozen=True)
class Statement:
    """What a claim says, the limits it is judged by, and how it is shown; `figure` is a figure's name.

    `scale`: on which its intervals are symmetric; `without_interval`: what is said of several values without an
    interval; `paper`: the paper's number.
    """

    text: str
    limits: Limits
    scale: Scale
    show: Callable[[float], str]
    figure: str
    without_interval: str = NO_SPREAD
    paper: str = PAPER


def statements(config: Config, *, by_completion: bool = False) -> dict[str, Statement]:
    """All claims by their id, in order; C3, C4 and C5 are judged for each correction.

    by_completion: whether C3 and C4 are judged problem by problem, from distinct completions.
    """
    margin, limit = config.gradients.bias_margin, config.gradients.variance_limit
    parity, accuracy = config.evaluation.parity_margin, f"{config.evaluation.headline} accuracy on each benchmark"
    faster = Limits(math.nextafter(MINIMUM_SPEEDUP, math.inf))  # the minimum itself is no speed-up
    each, one = (" of each problem", " of a single completion") if by_completion else ("", "")
    gradients = "completion_gradients" if by_completion else "gradients"
    estimator = ", by distinct completions" if by_completion else ""
    claims = {
        "C1": Statement(
            f"Nested rollouts are faster: more than {MINIMUM_SPEEDUP:g}× the full model's tokens/s, rising with the "
            "share of layers skipped",
            faster, POSITIVE, _ratio, "throughput",
        ),
        "C2": Statement(
            f"The whole training step is faster: more than {MINIMUM_SPEEDUP:g}× the baseline's speed",
            faster, POSITIVE, _ratio, "time",
        ),
        "C3": Statement(
            f"The gradient estimate is unbiased: within {100 * margin:g} % of the on-policy gradient{each}"
            + estimator,
            Limits(high=margin), SQUARE, share, gradients, NOT_RESOLVED,
        ),
        "C4": Statement(
            f"The variance of the gradient estimate{one} is controlled: at most {limit:g}× the on-policy one's"
            + estimator,
            Limits(high=limit), POSITIVE, _ratio, gradients, NOT_RESOLVED,
        ),
        "C5": Statement(
            f"Nested-ReFT is on par with baseline ReFT: within ±{100 * parity:g} points of its {accuracy}",
            Limits(-parity, parity), DIFFERENCE, _points, "parity",
        ),
        "C6": Statement(
            f"Assay check, {OURS}: baseline ReFT gains at least {100 * MINIMUM_GAIN:g} points of {accuracy}, "
            "over the model that it starts from",
            Limits(MINIMUM_GAIN), DIFFERENCE, _points, "accuracy", paper=OURS,
        ),
    }  # fmt: skip
    if config.nestability and config.nestability.precisions:
        claims["C7"] = Statement(
            f"Skipping layers is worth more than its loss of effective samples, {OURS}: more than "
            f"{MINIMUM_SPEEDUP:g}× the full model's effective tokens/s",
            faster,
            POSITIVE,
            _ratio,
            "behaviours",
            paper=OURS,
        )
    return claims


def of_correction(text: str, correction: str) -> str:
    """The words of a claim that is judged for each correction."""
    return f"{text}, with '{correction}'"


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def _ratio(value: float) -> str:
    return f"{two_digits(value)}×"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
