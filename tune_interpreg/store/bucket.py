"""A folder in an object store, by its URL: S3, Google Cloud Storage, Azure, or a folder of this machine.

An object is whole or absent. ``create`` makes an object only if there is none of its name, and of several processes
that try at once, one succeeds. This is a conditional write: ``If-None-Match: *`` on S3 and Azure, generation 0 on
Google, a hard link in a folder. Listings show everything that was written before.
"""

import os
import re
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tune_interpreg.store.files import StoreError

#: Scheme of a URL → where its credentials come from.
_S3 = (
    "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or install boto3, which reads ~/.aws; for another "
    "service than Amazon's, set AWS_ENDPOINT_URL"
)
_AZURE = "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_USE_AZURE_CLI=true after `az login`"
CREDENTIALS = {
    "s3": _S3,
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "az": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "file": "name a folder that this user may write",
}

#: Options of the client: to find out quickly whether a server answers, and to transfer large files.
_QUICK = {"connect_timeout": "3s", "read_timeout": "10s", "timeout": "20s"}
_PATIENT = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "1h"}

#: Parts of one file that are sent at once, of 5 MB each.
_PARTS = 2


class Unreachable(Exception):
    """A request that failed: the server is away, or refuses it. The message is one line."""


@dataclass(frozen=True)
class Object:
    """An object: its path in the bucket, bytes, and time of the last write by the server's clock.

    tag: changes whenever the object is written with other content.
    """

    path: str
    size: int
    tag: str
    modified: datetime


class Bucket:
    """The objects below a URL. Every method raises ``Unreachable`` if the request fails.

    quick: give up after seconds; for small objects.
    """

    def __init__(self, url: str, *, quick: bool = False):
        from obstore.store import from_url

        self.url = url
        options: dict[str, Any] = {}
        scheme = url.partition(":")[0]
        if scheme == "file":
            options["mkdir"] = True
        else:
            client: dict[str, Any] = dict(_QUICK if quick else _PATIENT)
            if any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS):
                client["allow_http"] = True  # the user has named a server without TLS
            options = {"client_options": client, "retry_config": {"max_retries": 1 if quick else 3}}
        if scheme == "s3" and (provider := _boto3_credentials()):
            options["credential_provider"] = provider
        with _explained():
            self._store: Any = from_url(url, **options)

    def put(self, path: str, content: bytes | Path) -> str:
        """Write an object, return its tag. Raises ``FileNotFoundError`` if there is no file ``content``."""
        import obstore

        try:
            with _explained():
                return str(obstore.put(self._store, path, content, max_concurrency=_PARTS)["e_tag"])
        except FileNotFoundError as error:
            if isinstance(content, Path) and not content.exists():
                raise
            raise Unreachable(_one_line(error)) from None

    def create(self, path: str, content: bytes) -> bool:
        """Write an object unless there is one of that path. Return whether it was written."""
        import obstore

        try:
            with _explained():
                obstore.put(self._store, path, content, mode="create")
        except FileExistsError:  # also if the answer to a first attempt was lost
            return self.read(path) == content
        except FileNotFoundError as error:  # no such bucket
            raise Unreachable(_one_line(error)) from None
        return True

    def read(self, path: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        import obstore

        try:
            with _explained():
                return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None

    def stream(self, path: str) -> Iterator[bytes]:
        """Yield the content of an object in pieces. Raises ``FileNotFoundError``."""
        import obstore

        with _explained():
            for piece in obstore.get(self._store, path).stream():
                yield bytes(piece)

    def list(self, prefix: str = "") -> list[Object]:
        """Return all objects below a prefix, which ends with a slash, sorted by path."""
        import obstore

        with _explained():
            metas = [meta for part in obstore.list(self._store, prefix or None) for meta in part]
        objects = [Object(meta["path"], meta["size"], str(meta["e_tag"]), meta["last_modified"]) for meta in metas]
        return sorted(objects, key=lambda item: item.path)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects. Those that are gone do not count as an error."""
        import obstore

        for path in paths:  # one by one, because a missing object ends a request for several at some services
            try:
                with _explained():
                    obstore.delete(self._store, path)
            except FileNotFoundError:
                continue


#: Variables with the address of a server.
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


def connect(url: str) -> Bucket:
    """Return the bucket of a URL after a trial: create, create again, list and delete an object.

    Raises ``StoreError`` within seconds if that fails.
    """
    place, scheme = f"--mirror {url}", url.partition("://")[0]
    if scheme not in CREDENTIALS or not re.fullmatch(r"\w+://[^?#\s]+", url):
        schemes = ", ".join(f"{name}://" for name in CREDENTIALS)
        raise StoreError(f"{place}: takes a URL that begins with one of {schemes}; such as s3://BUCKET/FOLDER")
    if scheme == "file" and not re.match(r"file:///\w", url):
        raise StoreError(f"{place}: a folder has an absolute path; such as file:///mnt/mirror")
    if find_spec("obstore") is None:
        raise StoreError(f'{place}: needs the package obstore; pip install "tune-interpreg[mirror]"')
    url = url.rstrip("/")
    if scheme == "file":
        _check_parent(url, place)
    trial = f"lease/trial-{uuid.uuid4().hex}"
    try:
        bucket = Bucket(url, quick=True)
        is_conditional = bucket.create(trial, b"first") and not bucket.create(trial, b"second")
        is_listed = [item.path for item in bucket.list("lease/") if item.path == trial]
        bucket.delete([trial])
    except Unreachable as error:
        raise StoreError(f"{place}: {error}; check the URL, or {CREDENTIALS[scheme]}") from None
    if not (is_conditional and is_listed):
        reason = "the server overwrites an object that shall only be created, so two machines could write at once"
        raise StoreError(f"{place}: {reason}; use a service with conditional writes (If-None-Match)")
    return Bucket(url)


def _check_parent(url: str, place: str) -> None:
    """Raise ``StoreError`` if the parent of a folder is missing: a disk that is not mounted gets no files."""
    folder = Path(urllib.parse.unquote(url.removeprefix("file://")))
    if not folder.parent.is_dir():
        raise StoreError(f"{place}: {folder.parent} is no folder; make or mount it, or name another one")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{place}: {folder} is a file; name a folder")


@cache
def _boto3_credentials() -> Any:
    """Return what reads credentials as Amazon's own programs do, also from ~/.aws; None without boto3 or credentials.

    Without it, the client reads variables, web identities, and the roles of containers and machines.
    """
    if "AWS_ACCESS_KEY_ID" in os.environ or find_spec("boto3") is None:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except Exception:  # of an unknown profile too; the client then says what it lacks itself
        return None


@contextmanager
def _explained() -> Iterator[None]:
    """Raise the library's errors as ``Unreachable``, ``FileExistsError`` or ``FileNotFoundError``."""
    from obstore import exceptions

    try:
        yield
    except exceptions.AlreadyExistsError as error:
        raise FileExistsError(_one_line(error)) from None
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            raise Unreachable(_one_line(error)) from None
        raise
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise Unreachable(_one_line(error)) from None


def _one_line(error: Exception) -> str:
    """Return the reason in an error of the library, which adds the server's XML and its own data structures."""
    text, _, source = str(error).partition("Debug source:")
    message = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    status = re.search(r"status code: (\d+ [\w ]+)", text)
    if message or status:
        parts = [match[1].strip().rstrip(".") for match in (status, message) if match]
        return "the server answers: " + ", ".join(parts)
    if "error sending request" in text:
        causes = re.findall(r'(?:message|error): "([^"]+)"', source)
        return f"the server cannot be reached ({causes[-1] if causes else 'no answer'})"
    return " ".join(text.rpartition(" - ")[2].split()).rstrip(".")[:300]
