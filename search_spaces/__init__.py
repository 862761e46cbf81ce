"""The shipped study files, one YAML file per study."""
