"""The figures of a report. Each module computes its numbers first, then draws. Only this room imports matplotlib."""

from analysis.figures.canvas import DrawnFigure
from analysis.figures.draw import draw, draw_comparison, make_figure

__all__ = ["DrawnFigure", "draw", "draw_comparison", "make_figure"]
