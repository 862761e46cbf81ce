"""What a running study shows: a live tree, log lines and TensorBoard."""
