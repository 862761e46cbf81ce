"""Tables as LaTeX to be included, with booktabs rules, notes below and all text escaped."""

from __future__ import annotations

import re

from analysis.tables.cells import Table

PREAMBLE = "% \\usepackage[utf8]{inputenc} \\usepackage{booktabs} \\usepackage{graphicx}\n"

#: Characters beyond ASCII that tables use, and characters that TeX reads as commands.
CHARACTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", '"': "''", "`": r"\`{}",
    "[": "{[}", "]": "{]}", "–": "--", "—": "---", "…": r"\dots{}", "’": "'", "‘": "`", "“": "``", "”": "''",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "÷": r"$\div$", "√": r"$\surd$", "∞": r"$\infty$",
    "≠": r"$\neq$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\to$", "‖": r"$\|$", "∇": r"$\nabla$",
    "∂": r"$\partial$", "ℓ": r"$\ell$", "²": "$^2$", "₁": "$_1$", "₂": "$_2$", "°": r"$^\circ$",
    "ε": r"$\varepsilon$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "η": r"$\eta$",
    "θ": r"$\theta$", "λ": r"$\lambda$", "μ": r"$\mu$", "ρ": r"$\rho$", "σ": r"$\sigma$", "τ": r"$\tau$",
    "φ": r"$\varphi$", "ω": r"$\omega$", "Σ": r"$\Sigma$", "Δ": r"$\Delta$",
}  # fmt: skip

#: A symbol with its index, which becomes one formula: λ_J, g_z, ∇f_c, ‖∇f_k(x)‖₂.
FORMULA = re.compile(r"‖∇f_(\w)(\(x\))?‖(₂)?|\b([λδg])_(J|cs|gm|g|z)\b")


def to_latex(table: Table) -> str:
    """Return a table as a float: caption, booktabs rows no wider than the line, notes below.

    Characters of other scripts than Latin, which pdflatex cannot print, are printed as their code: [U+4E2D].
    """
    heading, *rows = (" & ".join(escape(str(cell)) for cell in line) + r" \\" for line in (table.columns, *table.rows))
    notes = [rf"{{\footnotesize {escape(note)}\par}}" for note in table.notes]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{escape(table.title)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            *(r"\toprule", heading, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}}",
            *(r"\par\smallskip\raggedright", *notes),
            r"\end{table}",
        ]
    )


def escape(text: str) -> str:
    """Return text that pdflatex prints as it is, on one line."""
    parts, end = [], 0
    for match in FORMULA.finditer(text):
        parts += [_plain(text[end : match.start()]), _formula(match)]
        end = match.end()
    return "".join([*parts, _plain(text[end:])])


def _formula(match: re.Match[str]) -> str:
    label, argument, squared, symbol, index = match.groups()
    if label:
        return rf"$\|\nabla f_{label}{argument or ''}\|{'_2' if squared else ''}$"
    letter = CHARACTERS.get(symbol, symbol).strip("$")
    return rf"${letter}_{{{index}}}$"


def _plain(text: str) -> str:
    parts = re.split("(?<=[-–—])(?=[-–—])", text)  # TeX would join two dashes to another one
    return "{}".join("".join(CHARACTERS.get(letter) or _character(letter) for letter in part) for part in parts)


def _character(letter: str) -> str:
    if letter.isspace():
        return " "
    printable = " " < letter <= "~" or ("À" <= letter <= "ÿ" and letter not in "ÐðÞþ")
    return letter if printable else f"{{[}}U+{ord(letter):04X}{{]}}"
