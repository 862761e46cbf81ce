"""Run the ``tune-interpreg`` command by ``python -m tune_interpreg``."""

import os
import signal
import sys

from tune_interpreg import packages


def main() -> None:
    """Run the command. Ctrl-C ends it without a traceback, also while modules are imported."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_closed_streams()
    packages.pin()
    from tune_interpreg import cli

    cli.main()


def _open_closed_streams() -> None:
    """Connect closed standard streams to /dev/null. Otherwise the next file that is opened becomes standard error."""
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        os.set_inheritable(number, True)
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8")
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")


if __name__ == "__main__":
    main()
