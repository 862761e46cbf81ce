"""``python -m tune_interpreg`` is the ``tune-interpreg`` command."""

from tune_interpreg.cli import main

main()
