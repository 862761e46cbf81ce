"""Accuracy, gradient norms, measures of interpretability and honesty checks of trained networks."""
