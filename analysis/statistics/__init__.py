"""Confidence intervals, paired differences and tests."""
