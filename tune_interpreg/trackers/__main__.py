"""The process that sends the results of a run to a tracker: ``python -m tune_interpreg.trackers NAME STORE FD``.

FD is a file with the paths of the records that the store held before. The end of standard input ends the process, once
it has sent the rest.
"""

import os
import select
import signal
import sys
from pathlib import Path

from tune_interpreg import packages

#: Seconds that the process may take after the end of the run.
LAST = 600


def main(name: str, folder: str, descriptor: str) -> int:
    """Follow the run of a store to its end. Prints the result or the error last, and returns the exit code."""
    packages.pin()
    os.nice(5)  # the processors are for the trials
    from tune_interpreg.store.files import StoreError
    from tune_interpreg.store.store import Store
    from tune_interpreg.trackers.export import follow
    from tune_interpreg.trackers.tracker import TrackerError

    store = Store(folder)
    with os.fdopen(int(descriptor), encoding="utf-8", errors="surrogateescape") as file:
        paths = [Path(line) for line in file.read().splitlines()]
    before = {name for path in paths for name in (store.key_of(path), f"{path.parent.name}/{store.key_of(path)}")}

    def wait(seconds: float) -> bool:
        is_last = bool(select.select([sys.stdin], [], [], seconds)[0])
        if is_last:
            signal.alarm(LAST)
        return is_last

    try:
        print(follow(store, name, before, wait))
    except (StoreError, TrackerError) as error:
        print(f"error: {' '.join(str(error).split())}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
