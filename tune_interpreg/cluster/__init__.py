"""Run a study's items on Ray. Nothing else in ``tune_interpreg`` imports Ray."""
