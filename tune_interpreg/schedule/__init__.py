"""The graph of arms: what is ready to run, and which records count."""
