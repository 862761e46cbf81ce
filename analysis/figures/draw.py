"""Every figure of a study, drawn or left out with a reason."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

from analysis.figures import accuracies, curves, gradients, maps, matching, radii
from analysis.figures.canvas import STYLE, Drawn, NothingToDraw, folder, save
from analysis.results.results import Results
from analysis.results.rows import first_line
from tune_interpreg.store.store import Store, StoreError

#: name → (title, what draws it and words its caption), in the report's order.
FIGURES: dict[str, tuple[str, Callable[[Results, Store], tuple[Figure, str]]]] = {
    "accuracies": ("Clean against adversarial accuracy", accuracies.figure),
    "radii": ("Accuracy as the attack's radius grows", radii.figure),
    "gradients": ("Gradient norms", gradients.figure),
    "figure-1": ("Figure 1. Saliency maps of robust and non-robust teachers", maps.figure_1),
    "figure-2": ("Figure 2. SmoothGrad against the simple gradient", maps.figure_2),
    "matching": ("Matched training losses", matching.figure),
    "curves": ("Learning curves", curves.figure),
}


def draw(results: Results, store: Store) -> list[Drawn]:
    """Draws what the ledger holds to the store's report/figures; a figure without data says why in its caption."""
    return [_drawn(name, results, store) for name in FIGURES]


def _drawn(name: str, results: Results, store: Store) -> Drawn:
    title, made = FIGURES[name]
    with matplotlib.rc_context(STYLE):
        try:
            figure, caption = made(results, store)
            return Drawn(name, title, caption, save(figure, store, name))
        except NothingToDraw as missing:
            reason = str(missing)
        except (OSError, StoreError):  # the store takes no more
            raise
        except Exception as error:  # one figure's fault must not end the report
            reason = f"it could not be drawn ({first_line(repr(error))})"
    for stale in folder(store).glob(f"{name}.*"):
        stale.unlink()
    return Drawn(name, title, f"Left out: {reason}.")
