"""The commands of `tune-interpreg`, a module each; what they need of torch and Ray is imported when they run."""
