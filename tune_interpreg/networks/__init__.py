"""Layers with their adjoints, the shipped networks, and building a user's network."""
