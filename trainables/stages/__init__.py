"""Trainables of the work on trained models: target maps and judgments."""
