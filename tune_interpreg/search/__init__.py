"""Searches of the arms' parameters. The only room that imports Optuna."""
