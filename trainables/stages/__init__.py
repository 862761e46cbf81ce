"""Trainables of the work around training: target maps and checks."""
