"""The report as one HTML page that needs no network."""

from analysis.page.write import write

__all__ = ["write"]
