"""Tables that pdflatex compiles, whatever their text holds."""

import shutil
import subprocess

import pytest
from helpers.ledgers import STANDARD, results

from analysis.formats.latex import CHARACTERS, PREAMBLE, escape, to_latex
from analysis.statistics.intervals import Interval
from analysis.tables.accuracy import accuracy_table, gradient_table
from analysis.tables.cells import Estimate, Table
from analysis.tables.comparisons import comparison_tables
from analysis.tables.settings import settings_table

DOCUMENT = "\\documentclass{{article}}\n{}\\begin{{document}}\n{}\n\\end{{document}}\n"


def test_a_table_has_booktabs_rules_and_its_notes():
    table = Table("Accuracy, %", ("Arm", "x"), (("a_b", Estimate(Interval(1.5, 0.25, 5), 5)),), ("n = 5 & more",))
    text = to_latex(table)
    assert r"\caption{Accuracy, \%}" in text
    assert "\\toprule\nArm & x \\\\\n\\midrule\na\\_b & 1.50 $\\pm$ 0.25 \\\\\n\\bottomrule" in text
    assert r"{\footnotesize n = 5 \& more\par}" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("‖∇f_c‖ label", r"$\|\nabla f_c\|$ label"),
        ("‖∇f_k(x)‖₂", r"$\|\nabla f_k(x)\|_2$"),
        ("λ_J 0.03, φ 1", r"$\lambda_{J}$ 0.03, $\varphi$ 1"),
        ("g_z of δ_z", r"$g_{z}$ of $\delta_{z}$"),
        ("−0.1 ± 0.5", r"$-$0.1 $\pm$ 0.5"),
        ("ε = 1.5, 95%", r"$\varepsilon$ = 1.5, 95\%"),
        ("C:\\x_y {a} #1 $2 ~^", r"C:\textbackslash{}x\_y \{a\} \#1 \$2 \textasciitilde{}\textasciicircum{}"),
        ("two\nlines --store", "two lines -{}-store"),
        ("a---b ----", "a-{}-{}-b -{}-{}-{}-"),
        ("1–-2", "1--{}-2"),
        ("中", "{[}U+4E2D{]}"),
    ],
)
def test_text_is_escaped(text, said):
    assert escape(text) == said


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_pdflatex_compiles_every_table_and_every_character(tmp_path):
    known = "".join([*CHARACTERS, *map(chr, range(0x180)), "中λ_J‖∇f_c(x)‖₂"])
    one_a_row = tuple((one, f"[{one}", f"{one}]") for one in known)
    tables = [
        *(make(results(STANDARD)) for make in (accuracy_table, gradient_table, settings_table)),
        *comparison_tables(results(STANDARD)),
        Table(known, ("[Arm]", "λ_cs", "%"), one_a_row[:40], (known,)),
        *(Table("T", ("Arm", "x", "y"), one_a_row[first : first + 40]) for first in range(40, len(one_a_row), 40)),
    ]
    body = "\n".join(map(to_latex, tables))
    (tmp_path / "main.tex").write_text(DOCUMENT.format(PREAMBLE.replace("% ", ""), body), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "main.log").read_text(errors="replace")
