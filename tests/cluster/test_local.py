"""A local Ray starts whatever TMPDIR, HOME and Ray's own variables are, or one message says what to set."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tune_interpreg.cluster import environment, local
from tune_interpreg.cluster.connection import SETTINGS, ClusterError, explain

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------- Ray's folder
@pytest.mark.parametrize("name", ["job" * 30, "a b", "ä", "100%s", "missing/folder"])
def test_a_place_that_ray_cannot_use_is_passed_over(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / name
    if name != "missing/folder":
        place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    folder = Path(local.make_folder())
    folder.rmdir()
    assert str(folder.parent) in local.PLACES


def test_a_short_place_of_the_user_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    folder = Path(local.make_folder())
    folder.rmdir()
    assert folder.parent == Path("/var/tmp")


def test_without_a_place_the_message_names_each_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PLACES", (str(tmp_path / "missing"),))
    monkeypatch.setattr(local, "ROOM", 2**62)
    monkeypatch.setenv("TMPDIR", "/var")
    with pytest.raises(ClusterError) as refused:
        local.make_folder()
    assert "/var has less than" in str(refused.value)
    assert f"{tmp_path}/missing is no folder" in str(refused.value)
    assert "RAY_TMPDIR" in str(refused.value)


def test_a_full_disk_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.decode().strip()}")
    link = Path(f"/var/tmp/{os.getpid()}")
    link.symlink_to(tmp_path)
    try:
        monkeypatch.setenv("TMPDIR", str(link))
        folder = Path(local.make_folder())
        folder.rmdir()
    finally:
        link.unlink()
        subprocess.run(["umount", "-l", tmp_path], check=True)
    assert str(folder.parent) in local.PLACES


# ------------------------------------------------------------------------- a whole start
@pytest.fixture
def awkward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment in which ``ray.init`` alone fails."""
    place = tmp_path / ("job" * 30)
    place.mkdir()
    for name, value in {
        "TMPDIR": str(place),
        "HOME": "/proc/none",
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_RUNTIME_ENV_HOOK": "no.such_hook",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    yield
    ray.shutdown()


def test_ray_starts_in_an_awkward_environment_and_leaves_nothing(awkward: None) -> None:
    with local.started():
        (node,) = ray.nodes()
        socket = Path(node["RayletSocketName"])
        assert socket.exists()
        assert len(os.fsencode(socket.with_name("plasma_store"))) <= 107
    assert not socket.exists()
    assert not socket.parents[2].exists()


UV_RUN = """
import json, ray
from tune_interpreg.cluster import ray_internals
modify = ray_internals.find("ray._private.worker._maybe_modify_runtime_env")
with ray_internals.ignore_uv_run():
    ignored = modify({}, True)
print(json.dumps([ignored, sorted(modify({}, True))]))
"""


def test_uv_run_uploads_nothing(tmp_path: Path) -> None:
    """Ray takes a parent process of the name ``uv`` for uv. Here it is a shell that runs the script ``run``."""
    (tmp_path / "uv").symlink_to("/bin/bash")
    (tmp_path / "driver.py").write_text(UV_RUN)
    (tmp_path / "run").write_text(f"{sys.executable} driver.py; true\n")
    ran = subprocess.run([tmp_path / "uv", "run", "driver.py"], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(ran.stdout) == [{}, ["py_executable", "working_dir"]], ran.stderr


# --------------------------------------------------------------------- remedies by kind
def test_a_remedy_depends_on_the_kind_of_the_error_and_not_on_the_users_paths() -> None:
    def message(error: Exception) -> str:
        with pytest.raises(ClusterError) as refused, explain("local", "the default"):
            raise error
        return str(refused.value)

    hostile = "/home/job/Version mismatch/AuthenticationError/during startup"
    assert message(OSError(2, "no such file", hostile)).endswith("; the default")
    assert "install the versions" in message(RuntimeError(f"Version mismatch: {hostile}"))
    assert "RAY_AUTH_MODE" in message(ray.exceptions.AuthenticationError(hostile))
    elsewhere = f"Traceback (most recent call last):\n  File {hostile}\nray.exceptions.AuthenticationError: no token"
    assert "RAY_AUTH_MODE" in message(RuntimeError(elsewhere))
    merge = ValueError("Failed to merge the Job's runtime env {'working_dir': '/tmp'} with")
    assert "leave py_modules out" in message(merge)


# ------------------------------------------------------------------------ variables of Tune
def test_all_variables_that_tune_reads_are_listed() -> None:
    """After an upgrade of Ray, add what is missing."""
    from ray.air.constants import AIR_ENV_VARS
    from ray.tune.constants import TUNE_ENV_VARS

    assert (TUNE_ENV_VARS | AIR_ENV_VARS) - set(environment.TUNE_VARIABLES) == set()
    assert {name for name in SETTINGS if name.startswith("TUNE_")} <= set(environment.TUNE_VARIABLES)


def test_variables_of_tune_are_dropped_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.TUNE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNE_RESULT_DIR", "/nowhere")
    monkeypatch.setenv("TUNE_INTERPREG_DATA", "/data")
    assert environment.drop_tune_variables() == ["TUNE_RESULT_DIR"]
    assert "TUNE_RESULT_DIR" not in os.environ
    assert os.environ["TUNE_INTERPREG_DATA"] == "/data"


def test_a_number_of_ray_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Ray with it crashes the process without a message."""
    monkeypatch.setenv("RAY_health_check_period_ms", "soon")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "1e3")
    monkeypatch.setenv("RAY_HEAD_PORT", "tcp://10.0.0.1:6379")  # set by Kubernetes for a service
    (message,) = environment.find_bad_variables()
    assert message.startswith("RAY_health_check_period_ms: ")
    assert "'soon'" in message
