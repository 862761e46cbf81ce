"""All figures of a study, each drawn or left out with a reason."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from analysis.figures import accuracies, association, by_store, curves, gradients, maps, matching, parameters
from analysis.figures.canvas import STYLE, DrawnFigure, NothingToDraw, save
from analysis.results.results import Results
from analysis.results.rows import first_line
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store

#: Name → (title, function that returns the figure and its caption), in the report's order.
FIGURES: dict[str, tuple[str, Callable[[Results, Store], tuple[Figure, str]]]] = {
    "accuracies": ("Clean and adversarial accuracy", accuracies.figure),
    "interpretability": ("Robustness and interpretability", association.figure),
    "radii": ("Accuracy by radius of the attack", curves.radius_figure),
    "gradients": ("Gradient norms", gradients.figure),
    "figure-1": ("Figure 1. Saliency maps of robust and non-robust teachers", maps.figure_1),
    "figure-2": ("Figure 2. SmoothGrad and simple gradient", maps.figure_2),
    "matching": ("Matched training losses", matching.figure),
    "parameters": ("Searched parameters and metrics of the trials", parameters.figure),
    "curves": ("Learning curves", curves.learning_figure),
}


def draw(results: Results, store: Store, names: Iterable[str] = tuple(FIGURES)) -> list[DrawnFigure]:
    """Draw figures to the store's report/figures. The caption of one without data says why; names: keys of FIGURES."""
    return [_draw(name, results, store) for name in names]


def make_figure(name: str, results: Results, store: Store) -> Figure:
    """Return a figure without writing it. Raises ValueError for an unknown name, or if its data are missing."""
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}; choose one of {', '.join(FIGURES)}")
    with matplotlib.rc_context(STYLE):
        return FIGURES[name][1](results, store)[0]


def draw_comparison(stores: Mapping[str, Results], path: Path, writer: Store) -> DrawnFigure:
    """Draw the arms of several stores to PATH.png and PATH.svg."""
    title = "Accuracies by store"
    with matplotlib.rc_context(STYLE):
        try:
            figure, caption = by_store.figure(stores)
        except NothingToDraw as missing:
            return DrawnFigure(path.name, title, f"Left out: {missing}.")
        return DrawnFigure(path.name, title, caption, save(figure, writer, path))


def _draw(name: str, results: Results, store: Store) -> DrawnFigure:
    title, make = FIGURES[name]
    with matplotlib.rc_context(STYLE):
        try:
            figure, caption = make(results, store)
            return DrawnFigure(name, title, caption, save(figure, store, store.report_dir / "figures" / name))
        except NothingToDraw as missing:
            reason = str(missing)
        except (OSError, StoreError):  # the report cannot be written
            raise
        except Exception as error:  # an error in one figure must not stop the report
            reason = f"it could not be drawn ({first_line(repr(error))})"
    for stale in (store.report_dir / "figures").glob(f"{name}.*"):
        stale.unlink()
    return DrawnFigure(name, title, f"Left out: {reason}.")
