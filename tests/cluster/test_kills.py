"""Whatever is killed, `run` again continues, and the numbers are those of a run without kills."""

import os
from pathlib import Path

import pytest
from helpers.kills import VICTIMS, run_rounds

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.long), 2])
def test_kills_leave_no_trace_in_the_results(tmp_path: Path, at_once: int) -> None:
    """Kill drivers, workers and raylets, from start-up to a trial's last write. SEED chooses other moments."""
    rounds = run_rounds(tmp_path, at_once, seed=int(os.environ.get("SEED", "0")))
    kills = [kill for finished in rounds for kill in finished.kills]
    assert sorted(victim for victim, _ in kills) == sorted(VICTIMS)
    assert len({moment for _, moment in kills}) >= 3
    assert sum(finished.count_repeated_epochs() for finished in rounds) <= 2 * len(kills)
