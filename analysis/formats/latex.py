"""Tables as LaTeX to be included, with booktabs rules, notes below and all text escaped."""

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

#: A symbol with its index, which becomes one formula: λ_J, g_z, ‖∇f_k(x)‖₂. Or a dash before another, or any character.
TOKEN = re.compile(r"‖∇f_(\w)(\(x\))?‖(₂)?|\b([λδg])_(J|cs|gm|g|z)\b|([-–—])(?=[-–—])|.", re.DOTALL)


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
    return TOKEN.sub(_escape_token, text)


def _escape_token(match: re.Match[str]) -> str:
    label, argument, squared, symbol, index, dash = match.groups()
    if label:
        return rf"$\|\nabla f_{label}{argument or ''}\|{'_2' if squared else ''}$"
    if index:
        return f"${CHARACTERS.get(symbol, symbol).strip('$')}_{{{index}}}$"
    letter = match[0]
    if letter.isspace():
        return " "
    printable = " " < letter <= "~" or ("À" <= letter <= "ÿ" and letter not in "ÐðÞþ")
    escaped = CHARACTERS.get(letter) or (letter if printable else f"{{[}}U+{ord(letter):04X}{{]}}")
    return escaped + "{}" if dash else escaped  # TeX would join two dashes to another one
