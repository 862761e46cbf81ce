"""A study's results as rows, means and data frames."""
