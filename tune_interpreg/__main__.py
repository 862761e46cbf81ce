"""``python -m tune_interpreg`` is the ``tune-interpreg`` command."""

import signal


def main() -> None:
    """The command; Ctrl-C ends it without a traceback, also while the rest is imported."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tune_interpreg import cli

    cli.main()


if __name__ == "__main__":
    main()
