"""The tables and sentences of a report."""
