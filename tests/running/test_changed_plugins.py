"""A plugin with changed code and the version of before: its results are kept, and `run` says so."""

from pathlib import Path

import pytest
from helpers.in_process import TEACHER, run_study
from helpers.plugins import install_plugin, installed

from tune_interpreg.store.store import Store


@pytest.mark.thorough
def test_results_of_a_plugin_with_a_changed_file_are_kept_and_named(tmp_path: Path) -> None:
    source = "from tune_interpreg.networks.zoo import digits_cnn as net\n"
    site = install_plugin(tmp_path / "site", "lab", source, "[tune_interpreg.models]\nlab_net = lab:net\n")
    store, study = Store(tmp_path / "store"), TEACHER + "model: lab_net\n"
    with installed(site):
        assert "has changed" not in run_study(store, study)
        assert "has changed" not in run_study(store, study)
    records = store.records()
    (site / "lab.py").write_text(source + "# another file\n")
    with installed(site):
        printed = run_study(store, study)
    assert (
        "warning: lab has changed after 1 of the trainings; if that changes numbers, raise its package's version"
        in printed
    )
    assert store.records() == records
