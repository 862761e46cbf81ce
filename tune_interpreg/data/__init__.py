"""Data sets, splits and augmentation. Plugins import ``Source`` and ``Split`` from here."""

from tune_interpreg.data.dataset import Source, Split

__all__ = ["Source", "Split"]
