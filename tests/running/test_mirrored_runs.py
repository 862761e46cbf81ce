"""Runs with a mirror: machines that vanish with their disks cost only what was not yet copied."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import cli, s3
from helpers.in_process import run_study
from helpers.kept import Kept

from tune_interpreg.store.bucket import Bucket
from tune_interpreg.store.store import Store

pytest.importorskip("obstore", reason="needs the extra mirror")

STUDY = """
data: {name: digits, train_limit: 224, validation: 60, test_limit: 60}
training: {epochs: EPOCHS, batch_size: 16, lr: 0.05}
attack: {eps: 0.5, steps: 3}
evaluation: {steps: 5}
resources: {cpus: 1}
seeds: [0]
checks: null
arms:
  adversarial: {method: adversarial}
  robust:
    method: interpretation
    targets: {teacher: adversarial, samples: 4}
    search: {space: {lambda: {log_uniform: [0.01, 1.0]}}, maximize: val/adv_accuracy, trials: 3}
"""


@pytest.mark.thorough
def test_a_finished_study_comes_back_without_any_work(tmp_path: Path) -> None:
    """With a mirror, and by copying the bucket. Report and status are those of the store."""
    url, text = f"file://{tmp_path}/bucket", STUDY.replace("EPOCHS", "1")
    first, second, copied = (Store(tmp_path / name) for name in ("first", "second", "copied"))
    assert f"mirror       {url}: all files are there" in run_study(first, text, mirror=url)
    shutil.copytree(tmp_path / "bucket", copied.path, ignore=shutil.ignore_patterns("lease"))
    assert f"were copied from {url}" in run_study(second, text, mirror=url)
    assert Kept(second.path).difference(Kept(first.path)) == []
    assert Kept(second.path).leftovers() == []
    assert second.records() == first.records(), "nothing ran again"
    tables = cli.output("report", str(first.path))
    for store in (second, copied):
        assert cli.output("report", str(store.path)) == tables.replace(str(first.path), str(store.path))
        assert progress(store) == progress(first)


def progress(store: Store) -> dict[str, object]:
    """Return the status of a store without its place and what it says about the driver."""
    status = json.loads(cli.output("status", str(store.path), "--json"))
    return {name: value for name, value in status.items() if name not in ("store", "driver")}


# -------------------------------------------------------------------- runs in processes
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


class Machine:
    """A folder with a store, in which runs start and end."""

    def __init__(self, folder: Path, url: str = "", where: str = "in-process"):
        folder.mkdir(parents=True)
        self.store, self._log = folder / "store", folder / "log"
        (folder / "study.yaml").write_text(STUDY.replace("EPOCHS", "40"))  # files are copied every 3 s
        options = ["--store", str(self.store), "--cluster", where, *(["--mirror", url] if url else [])]
        self._command = [sys.executable, "-m", "tune_interpreg", "run", str(folder / "study.yaml"), *options]

    def start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            environment = ENVIRONMENT | {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
            return subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True, env=environment)

    def run(self) -> str:
        """Run to the end. Return what was printed so far."""
        code = self.start().wait()
        assert code == 0, self.printed
        return self.printed

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def run_until(self, records: int, url: str) -> set[str]:
        """Run until the mirror has so many records, then kill the driver. Return their paths."""
        driver, bucket = self.start(), Bucket(url)
        try:
            while len(there := {item.path for item in bucket.list("ledger/")}) < records:
                assert driver.poll() is None, self.printed
                time.sleep(0.05)
        finally:
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
        return there


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_continues_in_an_empty_folder(tmp_path: Path) -> None:
    """Nothing that was copied runs again, and every record equals that of a run without a mirror."""
    url, reference = f"file://{tmp_path}/bucket", Machine(tmp_path / "reference")
    reference.run()
    first, second = (Machine(tmp_path / name, url) for name in ("first", "second"))
    there = first.run_until(2, url)
    ended = {path: path.stat().st_mtime_ns for path in (tmp_path / "bucket").glob("ledger/*/*")}
    printed = second.run()
    assert "may still use it; waiting up to" in printed
    assert f"{url}: all files are there" in printed
    assert Kept(second.store).difference(Kept(reference.store)) == []
    assert Kept(second.store).leftovers() == []
    copies = (tmp_path / "bucket" / path for path in there)
    assert {path: path.stat().st_mtime_ns for path in copies}.items() <= ended.items()
    assert not list((tmp_path / "bucket").glob("checkpoints/*/*"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_asked_to_stop_copies_what_it_finished(tmp_path: Path) -> None:
    """As a scheduler asks that takes the machine back. The next run continues at once, because the mirror is free."""
    url = f"file://{tmp_path}/bucket"
    first, second = (Machine(tmp_path / name, url) for name in ("first", "second"))
    driver = first.start()
    while not list(first.store.glob("ledger/*/*")) and driver.poll() is None:
        time.sleep(0.05)
    driver.terminate()
    assert driver.wait() == 143, first.printed
    assert f"mirror       {url}: all files are there" in first.printed
    stored = Kept(first.store)
    assert Kept(tmp_path / "bucket").difference(stored) == []
    assert "may still use it" not in second.run()
    assert Kept(second.store).records.items() >= stored.records.items()


# ------------------------------------------------------------------------ a real server
@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Proxy]:
    with s3.running() as port:
        proxy = s3.Proxy(port)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield proxy
        proxy.close()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_while_files_are_copied_lose_nothing_that_was_copied(tmp_path: Path, proxy: s3.Proxy) -> None:
    """In the same folder while the connection is slow; then on Ray in another folder, where the server goes away."""
    url, reference = f"s3://{s3.BUCKET}/study", Machine(tmp_path / "reference")
    reference.run()
    first, second = Machine(tmp_path / "first", url), Machine(tmp_path / "second", url, "local")
    proxy.slow_down(0.3)
    there = first.run_until(2, url)
    sent, driver = proxy.sent, first.start()
    while proxy.sent < sent + 2**17 and driver.poll() is None:
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert "may still use it" not in first.printed, "the store's own lease"
    proxy.restore()
    assert {item.path for item in Bucket(url).list("ledger/")} >= there
    driver = second.start()
    while "parts are in" not in second.printed and driver.poll() is None:  # restored
        time.sleep(0.1)
    proxy.cut()
    while "the run continues, and what is not copied follows later" not in second.printed and driver.poll() is None:
        time.sleep(0.1)
    proxy.restore()
    assert driver.wait() == 0, second.printed
    assert "may still use it; waiting up to" in second.printed
    assert second.printed.count("the run continues, and what is not copied follows later") == 1
    assert f"mirror       {url}: all files are there" in second.printed
    assert Kept(second.store).difference(Kept(reference.store)) == []
    third = Machine(tmp_path / "third", url)
    third.run()
    assert Kept(third.store).difference(Kept(reference.store)) == []
