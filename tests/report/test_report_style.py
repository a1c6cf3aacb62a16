"""Figures are read by the colour-blind, printed in grey and set in papers: what the eye needs, measured."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic import Effects, collect_results, make_config

from nested_reft.config.experiment import Config
from nested_reft.core.corrections import CORRECTIONS
from nested_reft.report.claims.judge import HEADLINE_CORRECTIONS
from nested_reft.report.figures.speed import PARTS
from nested_reft.report.figures.style import BASELINE, PRETRAINED, RC, TEXT_WIDTH, look_of
from nested_reft.report.registry import FIGURES
from nested_reft.report.tidy import read_table

HEADLINE = {name: look_of(name) for name in HEADLINE_CORRECTIONS} | {"baseline": BASELINE}
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
CLEAR = 15  # difference in L*a*b* that nobody misses; one of 2.3 is just noticeable


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB."""
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1), 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lightness(color: str) -> float:
    return float(lab(linear(color))[0])


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """An experiment as wide as the paper's, in short runs: five benchmarks, three skips, three strategies."""
    root = tmp_path_factory.mktemp("papers")
    config = make_config(
        benchmarks=5, skips=(0, 10, 20, 30), seeds=(1, 2), steps=2, strategies=("uniform", "static", "influence")
    )
    collect_results(root, config, Effects(noise=0.02))
    return root, config


def figure(root: Path, config: Config, name: str) -> Figure:
    with mpl.rc_context(RC):
        return FIGURES[name].load()(*(read_table(root, table) for table in FIGURES[name].tables), config)


def shown(drawn: Figure) -> list[Text]:
    return [text for text in drawn.findobj(Text) if text.get_text().strip() and text.get_visible()]


@pytest.mark.parametrize(("one", "other"), [*combinations([*CORRECTIONS, "baseline", "pretrained"], 2)])
def test_any_two_are_told_apart_in_grey(one: str, other: str) -> None:
    looks = {name: look_of(name) for name in CORRECTIONS} | {"baseline": BASELINE, "pretrained": PRETRAINED}
    a, b = looks[one], looks[other]
    assert a.marker != b.marker or abs(lightness(a.color) - lightness(b.color)) > CLEAR


def test_lines_of_the_headline_corrections_differ_without_colour() -> None:
    assert len({str(look.linestyle) for look in HEADLINE.values()}) == len(HEADLINE)
    assert len({look.marker for look in HEADLINE.values()}) == len(HEADLINE)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_headline_colours_differ_to_the_colour_blind(kind: str) -> None:
    seen = {name: lab(np.array(BLINDNESS[kind]) @ linear(look.color)) for name, look in HEADLINE.items()}
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > CLEAR, (one, other)


def test_the_parts_of_a_bar_differ_in_grey() -> None:
    shades = [lightness(color) for color, _ in PARTS.values()]
    assert min(abs(one - other) for one, other in combinations(shades, 2)) > CLEAR


@pytest.mark.parametrize("name", ["reward", "tradeoff"])
def test_every_line_of_a_correction_carries_its_marker(collected: Path, small: Config, name: str) -> None:
    """Where lines cross, a dash pattern by itself is lost."""
    for axis in figure(collected, small, name).axes:
        for correction in small.corrections:
            drawn = [line for line in axis.lines if line.get_color() == look_of(correction).color]
            assert drawn
            assert look_of(correction).marker in {line.get_marker() for line in drawn}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_fit_a_paper(papers: tuple[Path, Config], name: str) -> None:
    drawn = figure(*papers, name)
    assert drawn.get_figwidth() <= TEXT_WIDTH
    assert min(text.get_fontsize() for text in shown(drawn)) >= 5.5
    drawn.draw_without_rendering()
    box = drawn.get_tightbbox()  # of all that is drawn, in inches: nothing is cut off
    assert min(box.x0, box.y0) >= -0.01
    assert box.x1 <= drawn.get_figwidth() + 0.01
    assert box.y1 <= drawn.get_figheight() + 0.01
