"""The displays of a running study: a live tree, log lines and TensorBoard."""
