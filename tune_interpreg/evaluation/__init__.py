"""Accuracy, gradient norms and honesty checks of trained networks."""
