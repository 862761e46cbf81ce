"""Fixtures that all rooms share. This file also puts ``tests/`` on the import path, for ``helpers``."""
