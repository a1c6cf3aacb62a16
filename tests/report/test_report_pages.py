"""The tables as LaTeX: what is escaped, what is marked, what says "not run", and that it all compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from synthetic import Effects, make_config, write_results

from nested_reft.config.experiment import Config
from nested_reft.report.claims.tables import write_claims
from nested_reft.report.collect.collect import collect
from nested_reft.report.pages.page import MOST_LINES, Page, extremes, latex, tex
from nested_reft.report.registry import PRESENTATION_TABLES
from nested_reft.report.tables.write import write_tables

NAMES = (*PRESENTATION_TABLES, "claims")
PACKAGES = [r"\usepackage{booktabs}", r"\usepackage{graphicx}", r"\usepackage[table]{xcolor}"]


def write_all(root: Path, config: Config) -> dict[str, str]:
    """The LaTeX of all tables by name, from the result files that are there."""
    collect(root, config)
    write_claims(root, config)
    write_tables(root, config)
    return {path.stem: path.read_text(encoding="utf-8") for path in (root / "tables").glob("*.tex")}


def rows(text: str) -> list[list[str]]:
    """The cells of all rows below the headers."""
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
    return [line.removesuffix(r" \\").split(" & ") for body in bodies for line in body.splitlines()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5 % #1 {x} $2", r"a\_b \& 5 \% \#1 \{x\} \$2"),
        ("a\\b ~ ^", r"a\textbackslash{}b \textasciitilde{} \textasciicircum{}"),
        ('< > | "', r"\textless{} \textgreater{} \textbar{} \textquotedbl{}"),
        ("60.1 ± 2.0, 1.5×, KL(b ‖ π)", r"60.1 $\pm$ 2.0, 1.5$\times$, KL(b $\|$ $\pi$)"),
        ("-4.5 [-7.4, -1.6]", r"$-$4.5 [$-$7.4, $-$1.6]"),
        ("pre-trained, 1e-10, MATH-500", "pre-trained, 1e-10, MATH-500"),
        ("`low_1` and `high`", r"\texttt{low\_1} and \texttt{high}"),
    ],
)
def test_texts_are_escaped(text: str, expected: str) -> None:
    assert tex(text) == expected


def test_cells_headers_and_captions_are_escaped() -> None:
    text = latex(Page("A_1", (("B_2", pd.DataFrame({"c_3 %": ["d_4"]})),), "50 %"), "e_5")
    assert r"\caption{B\_2. A\_1.}" in text
    assert r"\label{tab:e_5}" in text  # a label is no text
    assert r"\shortstack[l]{c\_3\\\%} \\" in text
    assert rows(text) == [[r"d\_4"]]
    assert "\n50 \\%\n" in text


def test_the_largest_value_of_a_table_is_green_and_the_smallest_red() -> None:
    columns = {"model": ["99.0", "one", "two"], "easy": ["9.5", "not run", "61.0 ± 99.9"]}
    table = pd.DataFrame({**columns, "hard": ["9.4", "10.0 ± 3.0", "9.4"], "mean": ["0.0", "not run", "100.0"]})
    cells = rows(latex(Page("T", (("", table),), "", marked=("easy", "hard")), "t"))
    red = r"\cellcolor{red!25} \textit{9.4}"  # numbers are compared, not texts; of equal ones each is marked
    assert cells == [
        ["99.0", "9.5", red, "0.0"],
        ["one", "not run", r"10.0 $\pm$ 3.0", "not run"],
        ["two", r"\cellcolor{green!25} \textbf{61.0 $\pm$ 99.9}", red, "100.0"],
    ]


@pytest.mark.parametrize("cells", [["5.0", "5.0"], ["not run", "not run"], ["5.0", "not run"]])
def test_where_there_is_no_difference_nothing_is_marked(cells: list[str]) -> None:
    assert not extremes(pd.DataFrame({"easy": cells}), ("easy",)).to_numpy().any()


def test_each_fine_tuning_set_has_its_own_table_with_its_own_extremes(tmp_path: Path) -> None:
    config = make_config(sizes=2, datasets=2, benchmarks=2, skips=(10,), corrections=("base",), steps=1)
    write_results(tmp_path, config, Effects(cost=1.0))
    text = write_all(tmp_path, config)["accuracy_sampled"]
    captions = re.findall(r"\\caption\{Fine-tuning on (\w+)\. Accuracy, sampled \(headline metric\)\. ", text)
    assert captions == ["stories", "svamp"]
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:accuracy_sampled-1", "tab:accuracy_sampled-2"]
    for part in text.split(r"\end{table}")[:2]:
        # The baseline learned 0.25; the second benchmark is 0.08 harder. Both sizes are alike.
        assert part.count(r"\cellcolor{green!25} \textbf{65.0 [50.7, 77.0]}") == 2
        assert part.count(r"\cellcolor{red!25} \textit{32.0 [20.5, 46.2]}") == 2
        assert part.count(r"\cellcolor") == 4
        assert "95 \\% interval over seeds and problems (Wilson's score interval;" in part
    assert "cellcolor" not in write_all(tmp_path, config)["speedup"]


def test_an_experiment_without_results_is_all_not_run(tmp_path: Path) -> None:
    texts = write_all(tmp_path, make_config(sizes=1, benchmarks=1, skips=(10,), corrections=("base",), steps=1))
    assert texts.keys() == set(NAMES)
    for name in ("layer_choice", "exact_bias"):
        assert "Not run" in texts[name]
        assert "tabular" not in texts[name]
    assert all(row[-1] == "not run" for row in rows(texts["claims"]))


def test_a_long_table_goes_on_in_the_next_float() -> None:
    table = pd.DataFrame({"n": [f"{n}" for n in range(MOST_LINES + 1)]})
    text = latex(Page("Long", (("", table),), "note", marked=("n",)), "long")
    assert re.findall(r"\\caption\{(Long\. .*? Part \d of \d\.)\}", text) == [
        "Long. Largest value green and bold, smallest red and italic. Part 1 of 2.",
        "Long. Largest value green and bold, smallest red and italic. Part 2 of 2.",
    ]
    first, second = text.split(r"\end{table}")[:2]
    assert len(rows(first)) == MOST_LINES
    assert rows(second) == [[rf"\cellcolor{{green!25}} \textbf{{{MOST_LINES}}}"]]
    assert r"\cellcolor{red!25} \textit{0}" in first
    assert "green!25" not in first  # the extremes are those of the whole table


def test_long_texts_are_paragraphs() -> None:
    text = latex(Page("T", (("", pd.DataFrame({"a": ["x" * 41], "b": ["x" * 40]})),), ""), "t")
    assert r"\begin{tabular}{>{\raggedright\arraybackslash}p{.5\linewidth}l}" in text


def test_every_file_is_ascii_and_names_its_packages(tmp_path: Path) -> None:
    config = make_config(datasets=2, steps=1, strategies=("uniform", "static"))
    write_results(tmp_path, config, Effects(noise=0.02))
    for name, text in write_all(tmp_path, config).items():
        assert text.isascii(), name
        assert [line.removeprefix("% ") for line in text.splitlines()[:3]] == PACKAGES


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
@pytest.mark.parametrize("have_results", [True, False])
def test_all_tables_compile_and_fit_on_their_pages(tmp_path: Path, have_results: bool) -> None:
    """An experiment as large as the paper's, in LaTeX's own narrow article class."""
    gradients = ("base", "unit", "retrace", "is_token", "is_sequence", "tis_sequence")
    strategies = {"strategies": ("uniform", "static", "influence"), "skips": (0, 10, 20, 30)}
    config = make_config(datasets=3, benchmarks=5, steps=2, gradients=gradients, **strategies)
    if have_results:
        write_results(tmp_path, config, Effects(noise=0.02, bias={"base": 0.5}))
    assert write_all(tmp_path, config).keys() == set(NAMES)
    inputs = [rf"\input{{tables/{name}}}\clearpage" for name in NAMES]
    document = [r"\documentclass{article}", *PACKAGES, r"\begin{document}", *inputs, r"\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(document), encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    for _ in range(2):  # labels are known from the second run on
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-3000:]
    log = (tmp_path / "all.log").read_text(encoding="latin-1")
    assert re.findall(r"Overfull.*|.*Warning:.*|Missing character.*", log) == []
