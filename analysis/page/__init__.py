"""The report as one page: self-contained HTML that needs no network."""

from analysis.page.write import write

__all__ = ["write"]
