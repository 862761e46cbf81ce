"""Whatever is killed, `run` again continues, and the numbers are those of a run without kills."""

import os
from collections import Counter
from pathlib import Path

import pytest
from helpers import kills

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_thirty_kills_leave_no_trace_in_the_results(tmp_path: Path) -> None:
    """Kill drivers, workers and raylets, from start-up to a trial's last write. SEED chooses other moments."""
    rounds = kills.run_rounds(tmp_path, 30, seed=int(os.environ.get("SEED", "0")))
    done = [kill for finished in rounds for kill in finished.kills]
    assert len(done) == 30
    assert Counter(victim for victim, _ in done).keys() == set(kills.VICTIMS)
    assert len({moment for _, moment in done}) >= 4
    assert sum(finished.count_repeated_epochs() for finished in rounds) <= 2 * len(done)
    assert all(seconds < 30 for finished in rounds for seconds in finished.orphaned)
    assert all(seconds < kills.MAX_HANG for finished in rounds for seconds in finished.hung)
