"""Symbols of parameters, and their indices as HTML and as formulas of matplotlib. Text holds them as λ_J."""

import re

#: Parameter → its symbol.
SYMBOLS = {"lambda": "λ", "phi": "φ", "lambda_j": "λ_J"}
_INDICES = ("g", "cs", "gm", "kd", "match", "pag", "ga", "cure", "trades", "mart")
SYMBOLS |= {f"lambda_{index}": f"λ_{index}" for index in _INDICES}

#: A symbol with its index: λ_J, g_z, δ_z, p_y, ∇f_c.
INDEXED = re.compile(r"(λ|δ|\bg(?=_z)|\bp(?=_y)|(?<=∇)f)_(J|cs|gm|kd|pag|ga|mart|trades|cure|match|g|z|y|c|k)\b")


def to_html(escaped: str) -> str:
    """Return escaped text with its indices set low: λ<sub>J</sub>."""
    return INDEXED.sub(r"\1<sub>\2</sub>", escaped)


def to_mathtext(symbol: str) -> str:
    r"""Return a symbol as an upright formula of matplotlib: $\mathrm{λ_{J}}$."""
    return INDEXED.sub(r"$\\mathrm{\1_{\2}}$", symbol)
