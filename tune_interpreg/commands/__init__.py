"""The commands of `tune-interpreg`, one per file. They import torch and Ray only when they run."""
