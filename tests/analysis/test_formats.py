"""Tables as Markdown, LaTeX, CSV, JSON and terminal text."""

import shutil
import subprocess

import pytest
from helpers.ledgers import STANDARD, results
from markdown_it import MarkdownIt
from rich.console import Console

from analysis.formats import latex
from analysis.formats.render import NUMBERS, escape, to_csv, to_json, to_markdown, to_rich
from analysis.statistics.intervals import Interval
from analysis.tables.accuracy import accuracy_table, gradient_table
from analysis.tables.cells import Estimate, Probability, Table
from analysis.tables.comparisons import comparison_tables
from analysis.tables.settings import settings_table

DOCUMENT = "\\documentclass{{article}}\n{}\\begin{{document}}\n{}\n\\end{{document}}\n"


# --------------------------------------------------------------------------- Markdown
@pytest.mark.parametrize("make", [accuracy_table, gradient_table, settings_table])
@pytest.mark.parametrize("ledger", [[], STANDARD])
def test_a_markdown_parser_sees_the_table_cell_by_cell(make, ledger):
    table = make(results(ledger))
    tokens = MarkdownIt("commonmark").enable("table").parse(to_markdown(table))
    kinds = [token.type for token in tokens]
    assert (kinds.count("table_open"), kinds.count("list_item_open")) == (1, len(table.notes))
    cells = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    expected = [table.title, *map(str, table.columns), *(str(cell) for row in table.rows for cell in row)]
    assert cells[: len(expected)] == expected


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("TypeError: Net.__init__() got *x*", r"TypeError: Net.\_\_init\_\_() got \*x\*"),
        ("a &lt; b & `c`", r"a &amp;lt; b &amp; \`c\`"),
        ("a|b <b>\nnext", r"a\|b &lt;b> next"),
        ("~~x~~ $y$ [z](w)", r"\~\~x\~\~ \$y\$ [z]\(w)"),
        ("# one", r"\# one"),
        ("- one", r"\- one"),
        ("λ_J of interp_robust: 3.0 [1, 2] (n=1)", "λ_J of interp_robust: 3.0 [1, 2] (n=1)"),
    ],
)
def test_markdown_shows_text_as_it_is(text, escaped):
    assert escape(text) == escaped


# ------------------------------------------------------------------------ CSV and JSON
def test_csv_and_json_have_unrounded_numbers():
    cells = (Estimate(Interval(1.234375, 0.5, 5), 5), Estimate(None, 5), Probability(0.25))
    table = Table("T", ("Arm", "x", "y", "p"), (("a", *cells),))
    assert to_csv([table]).splitlines() == [
        "table,row,column,text,mean,half_width,low,high,n,p",
        "T,a,x,1.23 ± 0.50,1.234375,0.5,0.734375,1.734375,5,",
        "T,a,y,–,,,,,,",
        "T,a,p,0.25,,,,,,0.25",
    ]
    ((name, x, y, p),) = to_json(table)["rows"]
    assert (name, p["p"]) == ({"text": "a"}, 0.25)
    assert x == {"text": "1.23 ± 0.50", "mean": 1.234375, "half_width": 0.5, "low": 0.734375, "high": 1.734375} | {
        "n": 5,
        "p": None,
    }
    assert y == {"text": "–"} | dict.fromkeys(NUMBERS)


# ---------------------------------------------------------------------------- terminal
def shown(table, width):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(to_rich(table, width))
    return capture.get()


def test_the_terminal_shows_brackets_as_they_are():
    text = shown(Table("T", ("Arm",), (("[red]a[/red]",),), ("KeyError: [0]",)), 80)
    assert "[red]a[/red]" in text
    assert "KeyError: [0]" in text


def test_a_wide_table_continues_below_and_breaks_no_number():
    cells = [Estimate(Interval(place / 7, 0.1, 5), 5, None) for place in range(9)]
    table = Table("T", ("Arm", *(f"metric {place}" for place in range(9))), (("An arm with a long name", *cells),))
    text = shown(table, 60)
    assert max(map(len, text.splitlines())) <= 60
    assert all(str(cell) in text for cell in cells)
    assert text.count("An arm with a long name") == 5


# ------------------------------------------------------------------------------- LaTeX
def test_latex_has_booktabs_rules_and_the_notes():
    table = Table("Accuracy, %", ("Arm", "x"), (("a_b", Estimate(Interval(1.5, 0.25, 5), 5)),), ("n = 5 & more",))
    text = latex.to_latex(table)
    assert r"\caption{Accuracy, \%}" in text
    assert "\\toprule\nArm & x \\\\\n\\midrule\na\\_b & 1.50 $\\pm$ 0.25 \\\\\n\\bottomrule" in text
    assert r"{\footnotesize n = 5 \& more\par}" in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("‖∇f_c‖ label", r"$\|\nabla f_c\|$ label"),
        ("‖∇f_k(x)‖₂", r"$\|\nabla f_k(x)\|_2$"),
        ("λ_J 0.03, φ 1", r"$\lambda_{J}$ 0.03, $\varphi$ 1"),
        ("g_z of δ_z", r"$g_{z}$ of $\delta_{z}$"),
        ("−0.1 ± 0.5", r"$-$0.1 $\pm$ 0.5"),
        ("C:\\x_y {a} #1 $2 ~^", r"C:\textbackslash{}x\_y \{a\} \#1 \$2 \textasciitilde{}\textasciicircum{}"),
        ("two\nlines --store", "two lines -{}-store"),
        ("a---b 1–-2", "a-{}-{}-b 1--{}-2"),
        ("中", "{[}U+4E2D{]}"),
    ],
)
def test_latex_shows_text_as_it_is(text, escaped):
    assert latex.escape(text) == escaped


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_pdflatex_compiles_every_table_and_every_character(tmp_path):
    characters = "".join([*latex.CHARACTERS, *map(chr, range(0x180)), "中λ_J‖∇f_c(x)‖₂"])
    rows = tuple((letter, f"[{letter}", f"{letter}]") for letter in characters)
    tables = [
        *(make(results(STANDARD)) for make in (accuracy_table, gradient_table, settings_table)),
        *comparison_tables(results(STANDARD)),
        Table(characters, ("[Arm]", "λ_cs", "%"), rows[:40], (characters,)),
        *(Table("T", ("Arm", "x", "y"), rows[first : first + 40]) for first in range(40, len(rows), 40)),
    ]
    body = "\n".join(map(latex.to_latex, tables))
    (tmp_path / "main.tex").write_text(DOCUMENT.format(latex.PREAMBLE.replace("% ", ""), body), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "main.log").read_text(errors="replace")
