"""Hyperparameter search for networks trained to be robust and interpretable."""

__version__ = "0.1.0"
