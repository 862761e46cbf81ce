"""Symbols of parameters, and their indices as HTML and as formulas of matplotlib. Text holds them as λ_J."""

import re

#: Parameter → its symbol.
SYMBOLS = {"lambda": "λ", "phi": "φ", "lambda_j": "λ_J", "lambda_g": "λ_g", "lambda_cs": "λ_cs", "lambda_gm": "λ_gm"}

#: A symbol with its index: λ_J, g_z, δ_z, ∇f_c.
INDEXED = re.compile(r"(λ|δ|\bg(?=_z)|(?<=∇)f)_(J|cs|gm|g|z|c|k)\b")


def to_html(escaped: str) -> str:
    """Return escaped text with its indices set low: λ<sub>J</sub>."""
    return INDEXED.sub(r"\1<sub>\2</sub>", escaped)


def to_mathtext(symbol: str) -> str:
    r"""Return a symbol as an upright formula of matplotlib: $\mathrm{λ_{J}}$."""
    return INDEXED.sub(r"$\\mathrm{\1_{\2}}$", symbol)
