"""Checksums show every change of a file, and errors of the disk name folder and remedy."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_interpreg.store.files import (
    CHECKSUM,
    Damaged,
    as_refused,
    file_checksum,
    read_checked,
    read_checked_text,
    text_with_checksum,
    verify_checksum,
    with_checksum,
)

JSON = st.recursive(st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.none(), st.lists)


# ------------------------------------------------------------------- checksums
@given(st.dictionaries(st.text(), JSON))
@settings(max_examples=30, deadline=None)
def test_content_with_a_checksum_is_read_back(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    content.pop(CHECKSUM, None)
    path = tmp_path_factory.mktemp("checked") / "file.json"
    path.write_text(json.dumps(with_checksum(content)))
    assert read_checked(path) == content
    assert with_checksum({"by seed": {10: 1.5, 9: 2}}) == with_checksum({"by seed": {"9": 2, "10": 1.5}})


@pytest.mark.parametrize(
    "content",
    [b"", b'{"a": 2, "sha256": "', b"\xff", b'{"a": 1}', b"[1]", b'{"a": 1, "sha256": "00"}', b"[" * 9999, b"null"],
)
def test_any_other_content_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"{path}: is damaged: "):
        read_checked(path)
    with pytest.raises(Damaged, match=f"{path}: is damaged: "):
        read_checked_text(path)


def test_every_changed_byte_of_a_text_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    whole = text_with_checksum("a: 1\n").encode()
    path.write_bytes(whole)
    assert read_checked_text(path) == "a: 1\n"
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(Damaged):
            read_checked_text(path)


def test_a_checksum_is_computed_again_only_if_time_or_size_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    checksum, status = file_checksum(path), path.stat()
    path.write_bytes(b"xyz")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_checksum(path) == checksum
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(Damaged, match="is damaged"):
        verify_checksum(path, checksum)
    path.unlink()
    with pytest.raises(Damaged, match="is missing"):
        verify_checksum(path, checksum)


# ---------------------------------------------------------- errors of the disk
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_errors_of_writing_count_in_any_folder(number: int) -> None:
    reason = os.strerror(number).lower()
    elsewhere = as_refused(OSError(number, "", "/tmp/ray/session"), Path("/store"))
    assert str(elsewhere).startswith(f"/tmp/ray/session: {reason}: ma")
    inside = as_refused(OSError(number, ""), Path("/store"))
    assert str(inside).startswith(f"/store: {reason}: ma")
    in_text = as_refused(RuntimeError(f"cannot write (os error {number})"), Path("/store"))
    assert str(in_text) == str(inside)


def test_a_number_in_a_path_is_no_error_of_the_disk() -> None:
    assert as_refused(RuntimeError("cannot parse /data/[Errno 28]/(os error 28)/x.png"), Path("/store")) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_errors_of_reading_count_in_the_store_only(number: int) -> None:
    assert as_refused(OSError(number, "", "/data/images"), Path("/store")) is None
    assert as_refused(OSError(number, "", "/store/models"), Path("/store")) is not None


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, ""), ValueError("[Errno 2]"), RuntimeError("CUDA")])
def test_other_errors_belong_to_the_item(error: Exception) -> None:
    assert as_refused(error, Path("/store")) is None
