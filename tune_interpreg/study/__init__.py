"""The content of a study file, and the items and keys made from it."""
