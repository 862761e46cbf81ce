"""A study's results as rows and data frames."""
