"""The shared Trainable of all training methods."""
