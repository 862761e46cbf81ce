"""What a study file may say, and the items that it becomes."""
