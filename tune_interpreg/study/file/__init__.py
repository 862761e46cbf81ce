"""Read a study file in YAML; name every problem with its line."""
