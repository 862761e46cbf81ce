"""Whatever dies, `run` again continues, and the numbers are those of a run in which nothing died."""

from collections import Counter
from pathlib import Path

import pytest
from helpers import kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_thirty_kills_leave_no_trace_in_the_results(tmp_path: Path) -> None:
    """Of drivers, workers and raylets, from start-up to a trial's last write; ``kills`` checks every round's store."""
    rounds = kills.torture(tmp_path, 30, seed=0)
    done = [kill for one in rounds for kill in one.kills]
    assert len(done) == 30
    assert Counter(victim for victim, _ in done).keys() == set(kills.VICTIMS)
    assert len({moment for _, moment in done}) >= 4
    assert sum(one.repeated() for one in rounds) <= 2 * len(done)
    assert max(lived for one in rounds for lived in [0.0, *one.orphans]) < 30
    assert max(hung for one in rounds for hung in [0.0, *one.hangs]) < kills.BOUND
