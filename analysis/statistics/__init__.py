"""Intervals, paired differences and tests."""
