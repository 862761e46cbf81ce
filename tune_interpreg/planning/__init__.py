"""Estimate what a study would run, its time and its cost. Runs nothing of the study."""
