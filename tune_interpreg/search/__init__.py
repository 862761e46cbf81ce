"""Optuna searches, one per arm. Nothing else imports Optuna."""
