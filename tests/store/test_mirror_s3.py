"""A mirror on an S3 server: what fails in between is caught up, and nothing is ever half there."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import cli, s3
from helpers.mirrors import add_model, contents, make_store, mirror

from tune_interpreg.store import mirror as mirroring
from tune_interpreg.store.bucket import Bucket
from tune_interpreg.store.files import Refused
from tune_interpreg.store.store import Store

pytest.importorskip("obstore", reason="needs the extra mirror")
pytestmark = pytest.mark.slow

URL = f"s3://{s3.BUCKET}/some/folder"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3.running() as port:
        yield port


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Proxy]:
    """The connection to the server with an empty folder, named by the environment."""
    proxy = s3.Proxy(server)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3.environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mirroring, "PAUSE", 0.2)
    monkeypatch.setattr(mirroring, "LONGEST_PAUSE", 0.5)
    bucket = Bucket(URL)
    bucket.delete([item.path for item in bucket.list()])
    yield proxy
    proxy.close()


def objects() -> dict[str, bytes]:
    """Return path → content of the mirror's files."""
    bucket = Bucket(URL)
    paths = [item.path for item in bucket.list() if not item.path.startswith("lease/")]
    return {path: bucket.read(path) or b"" for path in paths}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("proxy")
def test_a_store_goes_to_the_server_and_back(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", size=12 * 2**20)  # in several parts
    mirror(store, URL)
    assert objects() == contents(store.path)
    before = {item.path: item.tag for item in Bucket(URL).list()}
    other = Store(tmp_path / "other")
    mirror(other, URL)
    assert contents(other.path) == contents(store.path)
    mirror(other, URL)
    mirror(store, URL)
    after = {item.path: item.tag for item in Bucket(URL).list()}
    assert {path: tag for path, tag in after.items() if "lease" not in path} == {
        path: tag for path, tag in before.items() if "lease" not in path
    }


def test_of_two_creations_at_once_one_succeeds(proxy: s3.Proxy) -> None:
    bucket = Bucket(URL)
    assert bucket.create("lease/1.json", b"one")
    assert not bucket.create("lease/1.json", b"two")
    assert bucket.read("lease/1.json") == b"one"
    assert bucket.read("lease/2.json") is None


def test_a_server_that_goes_away_is_one_warning_and_is_caught_up(tmp_path: Path, proxy: s3.Proxy) -> None:
    store, lines, keys = make_store(tmp_path / "store"), list[str](), list[str]()

    def interrupt() -> None:
        wait_for(lambda: objects().keys() >= {"study.yaml"})
        proxy.cut()
        keys.extend(add_model(store, seed, b"new") for seed in (5, 6))
        wait_for(lambda: bool(lines))
        time.sleep(3)
        assert len(lines) == 1
        assert lines[0].startswith(f"warning: {URL}: ")
        assert lines[0].endswith("; the run continues, and what is not copied follows later")
        proxy.restore()
        wait_for(lambda: len(lines) > 1)
        assert lines[1:] == [f"{URL} answers again"]
        assert objects().keys() >= {f"models/{key}.safetensors" for key in keys}

    mirror(store, URL, interrupt, lines)
    assert lines[2:] == [f"mirror       {URL}: all files are there"]
    assert objects() == contents(store.path)


def test_a_server_that_is_away_at_the_end_is_an_error(tmp_path: Path, proxy: s3.Proxy) -> None:
    store, lines = make_store(tmp_path / "store"), list[str]()
    mirror(store, URL)

    def interrupt() -> None:
        proxy.cut()
        add_model(store, 5, b"new")

    with pytest.raises(Refused, match=f"--mirror {URL}: is not complete; run the same command again"):
        mirror(store, URL, interrupt, lines)
    assert lines[-1].startswith(f"mirror       {URL}: 1 files are not copied (")
    proxy.restore()
    mirror(store, URL)
    assert objects() == contents(store.path)


@pytest.mark.parametrize("size", [2**18, 6 * 2**20])
def test_a_truncated_upload_leaves_no_object(tmp_path: Path, proxy: s3.Proxy, size: int) -> None:
    """In one request, and in several parts: of a new model, and of one that replaces another."""
    store = make_store(tmp_path / "store")
    mirror(store, URL)
    before, sent = objects(), proxy.sent

    def interrupt() -> None:
        proxy.cut_after(size)
        for seed in (5, 0):
            add_model(store, seed, os.urandom(2 * size))
        wait_for(lambda: proxy.is_down)

    with pytest.raises(Refused):
        mirror(store, URL, interrupt)
    assert proxy.sent >= sent + size
    proxy.restore()
    assert objects() == before
    mirror(store, URL)
    assert objects() == contents(store.path)


@pytest.mark.parametrize(
    ("url", "variables", "parts"),
    [
        ("s3://no-such-bucket/path", {}, ["404 Not Found", "bucket does not exist"]),
        (URL, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ["cannot be reached (Connection refused)"]),
        (URL, {"AWS_ENDPOINT_URL": "http://server.invalid"}, ["cannot be reached ("]),
    ],
)
@pytest.mark.usefixtures("proxy")
def test_a_wrong_bucket_or_server_is_named_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], parts: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file, started = tmp_path / "study.yaml", time.monotonic()
    file.write_text("{data: digits, arms: {arm: {method: standard}}}")
    message = cli.refusal("run", str(file), "--store", str(tmp_path / "store"), "--mirror", url)
    assert time.monotonic() - started < 30
    assert message.startswith(f"error: --mirror {url}: ")
    for part in (*parts, "check the URL", "AWS_ACCESS_KEY_ID"):
        assert part in message
    assert not (tmp_path / "store").exists()
