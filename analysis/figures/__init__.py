"""The figures of a report: numbers first, then ink. Only here is matplotlib imported."""

from analysis.figures.canvas import Drawn
from analysis.figures.draw import draw

__all__ = ["Drawn", "draw"]
