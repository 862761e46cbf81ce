"""Run the ``tune-interpreg`` command by ``python -m tune_interpreg``."""

import signal


def main() -> None:
    """Run the command. Ctrl-C ends it without a traceback, also while modules are imported."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tune_interpreg import cli

    cli.main()


if __name__ == "__main__":
    main()
