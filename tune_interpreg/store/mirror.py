"""A mirror: a copy of a store in a bucket, which a run keeps up to date and from which it restores missing files.

The driver looks through the store every few seconds and copies what is finished. Workers know nothing of it. A bucket
has no append, no rename, no mapped files and no lock that the system frees, so it is a copy and not the store itself.

- Objects have the paths of the files. A copy of the bucket is a plain store.
- A record follows the files that its item made, and all of them are verified first: damage does not spread.
- ``mirror.jsonl`` holds the tag that the server gave to each copy. If tag, time and size are the same at the next start
  of a run, nothing is read. Otherwise the contents are compared.
- A file that both have with different content: the store wins if it had the mirror last, else the bucket. A damaged
  file loses.
- Only copies of checkpoints are deleted, with their jobs, and what `prune` deletes. An empty disk empties no mirror.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import compress
from pathlib import Path

from tune_interpreg.store import files
from tune_interpreg.store.bucket import Bucket, Object, Unreachable, connect
from tune_interpreg.store.files import Damaged, Refused, StoreError
from tune_interpreg.store.lease import Lease, LeaseLost, hold_lease
from tune_interpreg.store.mirror_notes import Notes, Stamp, read_url
from tune_interpreg.store.store import Store, read_record_file
from tune_interpreg.study.config import Study

logger = logging.getLogger(__name__)

#: Seconds between two looks for finished files; and at most, while the bucket does not answer.
PAUSE, LONGEST_PAUSE = 3.0, 60.0

#: Share of a core that looking may take: a store of 5,000 trials takes 0.3 s.
_SHARE = 0.05

#: Files that are copied at once.
_AT_ONCE = 4

#: Folders with files that are replaced as a whole. Other files grow, such as logs.
_FINISHED = ("ledger", "choices", "models", "targets", "checkpoints")


class Mirror:
    """A locked store, its bucket, and which files are equal in both.

    Args:
        lease: of the bucket, for this run.
        say: receives a line about each event that a user should know.
    """

    def __init__(self, store: Store, bucket: Bucket, notes: Notes, lease: Lease, say: Callable[[str], object]):
        self.store, self.bucket, self.say = store, bucket, say
        self._notes, self._lease = notes, lease
        self._copied: dict[str, Stamp] = {}  # path → state of the file that the bucket has, too
        self._there: set[str] = set()  # paths in the bucket
        self._fetched: list[str] = []  # paths of files that were copied to the store
        self._replaced: list[Path] = []
        self._last: dict[str, Stamp] = {}  # at the last look
        self._pause = PAUSE  # until the next look
        self._named: set[str] = set()  # damaged files that were reported
        self._trouble: str | None = None  # why the last look did not copy everything

    # ------------------------------------------------------------------ to the store
    def restore(self) -> None:
        """Copy what the store lacks from the bucket, also in place of damaged files.

        If another store has had the mirror since, the bucket's files replace all that differ. What is replaced is set
        aside. Raises ``Unreachable``.
        """
        objects = {item.path: item for item in self.bucket.list() if _is_mirrored(item.path)}
        local = _look(self.store)
        both = [item for path, item in objects.items() if path in local]
        missing = {path: item for path, item in objects.items() if path not in local}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda item: self._is_equal(item, local[item.path]), both))
            for item in compress(both, answers):
                self._note(item.path, item.tag, local[item.path])
            differing = [item for item, is_equal in zip(both, answers, strict=True) if not is_equal]
            needs_checksums = any(_is_of_record(item.path) for item in (*differing, *missing.values()))
            checksums = self._list_files(local) if needs_checksums else {}
            missing |= {i.path: i for i in differing if self.is_behind or self._is_damaged(i.path, checksums)}
            if study := missing.pop(self.store.study_file.name, None):
                self._fetch(study)  # first, because a folder with it is a store
            records = [item for path, item in missing.items() if _is_record(path)]
            list(pool.map(lambda item: self._fetch_with_files(item, missing), records))
            rest = [item for path, item in missing.items() if not _is_record(path)]
            list(pool.map(lambda item: self._fetch(item, checksums.get(item.path)), rest))
        self._notes.end_restoration()
        self._there = set(objects)
        self._copy_files_again_that_are_not_there(local)
        if self._fetched:
            self.say(f"{len(self._fetched)} files were copied from {self.bucket.url}")
        if self._replaced:
            self.say(f"{len(self._replaced)} of them replaced older or damaged ones, which are in damaged/ now")

    def _list_files(self, local: dict[str, Stamp]) -> dict[str, str]:
        """Return the files of the items of all intact records, with their checksums."""
        lists: dict[str, str] = {}
        for path in filter(_is_record, local):
            with suppress(Damaged):
                lists |= read_record_file(self.store.path / path)["files"]
        return lists

    def _is_damaged(self, path: str, checksums: dict[str, str]) -> bool:
        """Return whether a local file differs from its checksum."""
        try:
            if path in checksums:
                files.verify_checksum(self.store.path / path, checksums[path])
            elif _is_record(path):
                read_record_file(self.store.path / path)
            else:
                _check(path, self.store.path / path)
        except Damaged:
            return True
        return False

    @property
    def is_behind(self) -> bool:
        """True if another store had the mirror after this one, and this one was not restored since."""
        return self._notes.is_behind

    def _is_equal(self, item: Object, stamp: Stamp) -> bool:
        """Return whether a local file has the content of an object; read the object only if no note says so."""
        if self._notes.copies.get(item.path) == (item.tag, stamp):
            return True
        if item.size != stamp.size:
            return False
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder, "object")
            try:
                _download(self.bucket, item.path, other)
            except FileNotFoundError:
                return False
            return files.file_checksum(other) == files.file_checksum(self.store.path / item.path)

    def _fetch_with_files(self, item: Object, missing: dict[str, Object]) -> None:
        """Copy a record to the store, after those of its item's files that are missing."""
        path = self.store.path / item.path
        with self._fetching(item), files.replace_atomically(path) as temporary:
            _download(self.bucket, item.path, temporary)
            for name, checksum in read_record_file(temporary)["files"].items():
                if file := missing.pop(name, None):  # not if another record of this item has it
                    self._fetch(file, checksum)
            self._make_room(path)

    def _fetch(self, item: Object, checksum: str | None = None) -> None:
        """Copy an object to the store, if it has the checksum."""
        path = self.store.path / item.path
        with self._fetching(item), files.replace_atomically(path) as temporary:
            _download(self.bucket, item.path, temporary)
            if checksum is None:
                _check(item.path, temporary)
            else:
                files.verify_checksum(temporary, checksum)
            self._make_room(path)

    @contextmanager
    def _fetching(self, item: Object) -> Iterator[None]:
        """Note that the block has copied an object to the store, or name the object if it is damaged."""
        try:
            yield
        except FileNotFoundError:
            return
        except Damaged as error:
            self._name_damaged(f"{self.bucket.url}/{item.path}", error, "it is not copied")
            return
        self._note(item.path, item.tag, _stamp(self.store.path / item.path))
        self._fetched.append(item.path)

    def _make_room(self, path: Path) -> None:
        """Set a file of the store aside that the mirror's replaces."""
        if path.exists():
            self.store.set_aside(Damaged(path, "is replaced by the mirror's"))
            self._replaced.append(path)

    def _copy_files_again_that_are_not_there(self, local: dict[str, Stamp]) -> None:
        """Let records be copied again if the bucket lacks files of their items that the store has."""
        lacking = {path for path in local if _is_of_record(path) and path not in self._copied}
        for path in [path for path in self._copied if _is_record(path)] if lacking else ():
            with suppress(Damaged):
                if not lacking.isdisjoint(read_record_file(self.store.path / path)["files"]):
                    del self._copied[path]

    # ----------------------------------------------------------------- to the bucket
    def copy(self, *, final: bool = False) -> None:
        """Copy finished files that the bucket lacks, and delete its copies of jobs that are over.

        A file that grows is copied once it has rested since the last look. ``final``: all are, because the run is over.

        Raises:
            Unreachable: the bucket does not answer; the next call copies the rest.
            LeaseLost: another machine has the mirror.
        """
        started = time.thread_time()
        local = _look(self.store)
        self._pause = max(PAUSE, (time.thread_time() - started) / _SHARE)
        waiting = [path for path in self._waiting(local) if final or self._is_at_rest(path, local[path])]
        self._last = local
        waiting.sort(key=lambda path: path != self.store.study_file.name)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._copy, waiting))  # the first error ends it
        if self.store.study_file.name in local:  # else the disk is gone, and the mirror is what is left
            self.delete(path for path in self._there if path.startswith("checkpoints/") and path not in local)

    def _waiting(self, local: dict[str, Stamp]) -> list[str]:
        """Return the paths that differ from the bucket's, without those that records bring along."""
        return [path for path, stamp in local.items() if self._copied.get(path) != stamp and not _is_of_record(path)]

    def _is_at_rest(self, path: str, stamp: Stamp) -> bool:
        if path == self.store.journal.name:  # its reader takes an incomplete last line for damage
            return False
        return path.partition("/")[0] in _FINISHED or self._last.get(path) == stamp

    def _copy(self, path: str) -> None:
        """Copy a file to the bucket; of a record, the files of its item first. A damaged one is left out."""
        file = self.store.path / path
        try:
            stamp = _stamp(file)
            if _is_record(path):
                for name, checksum in read_record_file(file)["files"].items():
                    self._copy_made(name, checksum)
            else:
                _check(path, file)
            self._put(path, stamp)
        except FileNotFoundError:  # the job is over
            return
        except Damaged as error:
            if file.exists():
                self._name_damaged(path, error, "it is not copied to the mirror")

    def _copy_made(self, name: str, checksum: str) -> None:
        """Copy a file that an item made. Raises ``Damaged``. `prune` may have deleted it."""
        file = self.store.path / name
        if file.exists() and self._copied.get(name) != (stamp := _stamp(file)):
            files.verify_checksum(file, checksum)
            self._put(name, stamp)

    def _put(self, path: str, stamp: Stamp) -> None:
        self._lease.require()
        file = self.store.path / path
        is_whole = path.partition("/")[0] in _FINISHED
        tag = self.bucket.put(path, file if is_whole else file.read_bytes())
        self._there.add(path)
        self._note(path, tag, stamp)

    def list_there(self) -> None:
        """Read which files the bucket has."""
        self._there = {item.path for item in self.bucket.list()}

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files of the bucket, those that it has. Raises ``Unreachable`` or ``LeaseLost``."""
        paths = [path for path in paths if path in self._there]
        if paths:
            self._lease.require()
            self.bucket.delete(paths)
            self._there.difference_update(paths)

    def _note(self, path: str, tag: str, stamp: Stamp) -> None:
        self._copied[path] = stamp
        self._notes.add_copy(path, tag, stamp)

    def _name_damaged(self, path: str, error: Damaged, consequence: str) -> None:
        if path not in self._named:
            self._named.add(path)
            self.say(f"warning: {path}: {error.reason}; {consequence}")

    # ------------------------------------------------------------------- during a run
    @contextmanager
    def copying(self) -> Iterator[None]:
        """Copy in the background while this block runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._copy_until, args=(over,), name="mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _copy_until(self, over: threading.Event) -> None:
        pause = self._pause
        while not over.wait(pause):
            pause = self._pause if self._try_to_copy() else min(2 * pause, LONGEST_PAUSE)

    def _try_to_copy(self, *, final: bool = False) -> bool:
        """Copy. Return whether it worked; a line says when that changes."""
        try:
            self.copy(final=final)
        except LeaseLost as error:
            trouble = f"{error}; nothing more is copied there"
        except Unreachable as error:
            trouble = f"{error}; the run continues, and what is not copied follows later"
        except Exception as error:  # such as a full disk, which the run itself reports
            logger.exception("copying to %s failed", self.bucket.url)
            trouble = f"{type(error).__name__}: {error}"
        else:
            if self._trouble:
                self.say(f"{self.bucket.url} answers again")
            self._trouble = None
            return True
        if self._trouble is None:
            self.say(f"warning: {self.bucket.url}: {trouble}")
        self._trouble = trouble
        return False

    def finish(self) -> str | None:
        """Copy what is left after a run. Return None if the bucket has everything, else why not."""
        self._try_to_copy(final=True)
        left = len(self._waiting(_look(self.store)))
        if not left:
            return None
        return f"{left} files are not copied ({self._trouble or 'they are damaged'})"


@contextmanager
def mirrored(store: Store, bucket: Bucket | None, say: Callable[[str], object]) -> Iterator[None]:
    """Restore a locked store from its mirror, and copy to it while this block runs.

    Raises ``StoreError`` as ``attach`` does, and ``Refused`` if the bucket lacks files after the block.
    """
    if bucket is None:
        if url := read_url(store):
            say(f"this run does not update the store's mirror; --mirror {url} does")
        yield
        return
    with attach(store, bucket, say) as mirror:
        mirror.restore()
        problem: str | None = None
        try:
            with mirror.copying():
                yield
        finally:
            problem = mirror.finish()
            say(f"mirror       {bucket.url}: {problem or 'all files are there'}")
        if problem:
            raise Refused(f"--mirror {bucket.url}: is not complete; run the same command again")


@contextmanager
def attach(store: Store, bucket: Bucket, say: Callable[[str], object]) -> Iterator[Mirror]:
    """Yield the mirror of a locked store, and keep other machines away from it in this block.

    Raises ``StoreError`` if another machine uses it, or if it does not answer any more.
    """
    notes = Notes(store.mirror_file, bucket.url)
    try:
        with hold_lease(bucket.url, str(store.path), notes.leases, notes.add_lease, say) as lease:
            yield Mirror(store, bucket, notes, lease, say)
    except (Unreachable, LeaseLost) as error:
        raise StoreError(f"--mirror {bucket.url}: {error}; run the same command again") from None


@contextmanager
def reattach(store: Store, say: Callable[[str], object]) -> Iterator[Mirror | None]:
    """Yield the mirror that a locked store has had in its last mirrored run; None without one.

    Raises ``StoreError`` if it does not answer, or if it is newer than the store.
    """
    url = read_url(store)
    if url is None:
        yield None
        return
    try:
        bucket = connect(url)
    except StoreError as error:
        raise StoreError(f"{error}; or delete {store.mirror_file}, and the store has no mirror") from None
    with attach(store, bucket, say) as mirror:
        if mirror.is_behind:
            raise StoreError(f"{store.path}: is older than its mirror; run the study with --mirror {url} first")
        mirror.list_there()
        yield mirror


def check_study(bucket: Bucket, study: Study) -> None:
    """Raise ``StoreError`` if a bucket holds another study, or records of another format. Reads two files."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        try:
            first = next((item.path for item in bucket.list("ledger/") if _is_record(item.path)), None)
            for path in filter(None, (store.study_file.name, first)):
                with suppress(FileNotFoundError):
                    (store.path / path).parent.mkdir(parents=True, exist_ok=True)
                    _download(bucket, path, store.path / path)
            store.driver_file.touch()
            store.check_setting(study)
        except Damaged:  # it is written again
            return
        except Unreachable as error:
            raise StoreError(f"--mirror {bucket.url}: {error}; run the same command again") from None
        except StoreError as error:
            message = str(error).replace(folder, f"--mirror {bucket.url}").replace("--store", "--mirror")
            raise StoreError(message) from None


# ------------------------------------------------------------------------------ files
def _look(store: Store) -> dict[str, Stamp]:
    """Return the store's files that belong into a mirror: path → state."""
    stamps: dict[str, Stamp] = {}
    root = f"{store.path}/"
    pending = [root]
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = entry.path[len(root) :]
                if entry.is_dir(follow_symlinks=False):
                    if _is_mirrored(path):
                        pending.append(entry.path)
                elif _is_mirrored(path):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        stamps[path] = Stamp(status.st_mtime_ns, status.st_size)
    return {path: stamps[path] for path in stamps if not _is_of_partial_maps(path, stamps)}


#: Files and folders that make sense on this machine only, or that another run makes again.
_LOCAL = {"driver.json", "driver.lock", "mirror.jsonl", "lease", "damaged"}
_LOCAL_NAMES = {"place.json", "error.txt"}


def _is_mirrored(path: str) -> bool:
    parts = path.split("/")
    return parts[0] not in _LOCAL and parts[-1] not in _LOCAL_NAMES and not any(part.startswith(".") for part in parts)


def _is_of_partial_maps(path: str, stamps: dict[str, Stamp]) -> bool:
    """Return whether a file is of unfinished maps, which are mapped into memory: they start again elsewhere."""
    folder, _, name = path.rpartition("/")
    return folder.startswith("checkpoints/") and name != "job.json" and f"{folder}/maps.npy" in stamps


def _is_record(path: str) -> bool:
    return path.startswith("ledger/") and path.endswith(".json")


def _is_of_record(path: str) -> bool:
    """Return whether a file is one that a record lists, with its checksum."""
    return path.startswith("models/") or (path.startswith("targets/") and path.count("/") == 1)


def _check(path: str, file: Path) -> None:
    """Raise ``Damaged`` if a file contains its checksum and differs from it."""
    if path == "study.yaml":
        files.read_checked_text(file)
    elif path.startswith(("choices/", "checkpoints/")) and path.endswith(".json"):
        files.read_checked(file)


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(status.st_mtime_ns, status.st_size)


def _download(bucket: Bucket, path: str, file: Path) -> None:
    with file.open("wb") as target:
        for piece in bucket.stream(path):
            target.write(piece)
