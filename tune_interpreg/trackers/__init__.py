"""Send the trainings of a study to experiment trackers, such as MLflow and Weights & Biases."""
