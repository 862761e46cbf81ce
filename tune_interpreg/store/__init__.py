"""The folder that holds a study: atomic files, checksums, ledger and lock."""
