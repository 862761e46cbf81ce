"""The progress of a study, read from its store: writes nothing, and loads neither torch nor Ray."""
