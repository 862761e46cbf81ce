"""The study files that come with the package, one YAML a study."""
