"""Penalties on input gradients, and saliency maps."""
