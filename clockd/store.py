"""What outlives a connection: in memory, and in a SQLite file that is written behind.

Memory is the truth. Everything is read once, when the store is opened; what changes is written by a thread, half a
second later at most and all of it in one transaction. So nobody waits for a disk, and a file that cannot be written
stops nothing: what has changed stays to be written, and is when that can be done again.

The file has a write-ahead log, and SQLite does not wait for the disk at each commit (`synchronous=NORMAL`). What was
committed is with the kernel then, so a process may be killed at any moment and loses what was not yet written: half a
second, and the time that the transaction takes. Only when power fails, or the kernel does, is there more: what the
kernel had not put on the disk yet, as a rule half a minute. The file stays whole even so (https://sqlite.org/wal.html).

A file that is damaged is moved aside and never written to; a new one is filled from memory. A file of a newer clockd,
or of another program, is left alone, and so is what does not begin as a database.

Rules of this module: it alone knows SQLite. `Database` belongs to the thread, the stores to the reactor's.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, ParamSpec, TypeVar

from msgspec import Struct, convert, json
from msgspec.structs import astuple
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from clockd.interfaces import IAccountStore
from clockd.values import Remembered, Retained

P = ParamSpec("P")
S = TypeVar("S", bound=Struct)
T = TypeVar("T")

BATCH_SECONDS = 0.5
"""What has changed waits so long for more that will."""

RETRY_SECONDS = 2.0
"""In trouble the next try comes so long after the last."""

BUSY_SECONDS = 0.5
"""As long as the thread waits for a lock that another program holds."""

OPEN_SECONDS = 10.0
"""As long as an opening is waited for; what is read later is taken over then."""

SAVE_SECONDS = 3.0
"""As long as a write may take before that is trouble, and as a save or a closing is waited for."""

APPLICATION = int.from_bytes(b"clkd")
"""SQLite's `application_id`, by which our files are known; set by the first migration."""

_HEADER = b"SQLite format 3\0"  # https://sqlite.org/fileformat2.html#the_database_header
_SIDES = ("-wal", "-shm")
"""What SQLite puts behind the file's name, for its log."""

_NONE = -1
"""No file descriptor."""

_DAMAGED = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))

_PLACE = "see that its directory is there and that the server may write to it"

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; make room on it",
    sqlite3.SQLITE_BUSY: "another program has locked it; end that program",
    sqlite3.SQLITE_READONLY: "it is read-only; give the server the right to write to it and to its directory",
    sqlite3.SQLITE_CANTOPEN: f"it cannot be opened; {_PLACE}",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written; see whether it is full or broken",
}

_SILENT = "the disk does not answer; see whether it is busy or broken"

_READ_ACCOUNTS = "SELECT name, subscriptions, logins, pushes, first_seen, last_seen FROM account"
_READ_SAMPLES = "SELECT feed, sequence, stamp, encoded FROM sample"
_WRITE_ACCOUNT = "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?)"
_FORGET_ACCOUNT = "DELETE FROM account WHERE name = ?"
_WRITE_SAMPLE = "INSERT OR REPLACE INTO sample VALUES (?, ?, ?, ?)"


class Found(NamedTuple):
    """What was read.

    Attributes:
        accounts: By name.
        samples: By feed name.
    """

    accounts: dict[str, Remembered]
    samples: dict[str, Retained]


class Changes(NamedTuple):
    """What is to be written.

    Attributes:
        accounts: By name; None for one that is to be forgotten.
        samples: By feed name.
    """

    accounts: dict[str, Remembered | None]
    samples: dict[str, Retained]


@implementer(IAccountStore)
class MemoryStore:
    """Keeps everything as long as it exists itself."""

    trouble: str | None = None

    def __init__(self) -> None:
        self._accounts: dict[str, Remembered] = {}
        self._samples: dict[str, Retained] = {}

    def open(self) -> Deferred[None]:
        """As for any store; there is nothing to be read."""
        return succeed(None)

    def account(self, name: str) -> Remembered:
        """As for any store."""
        return self._accounts.get(name) or Remembered()

    def remember(self, name: str, what: Remembered) -> None:
        """As for any store."""
        self._accounts[name] = what

    def forget(self, name: str) -> None:
        """As for any store."""
        self._accounts.pop(name, None)

    def sample(self, feed: str) -> Retained | None:
        """As for any store."""
        return self._samples.get(feed)

    def retain(self, feed: str, sample: Retained) -> None:
        """As for any store."""
        self._samples[feed] = sample

    def save(self) -> Deferred[None]:
        """As for any store; there is nothing to be written."""
        return succeed(None)

    def close(self) -> Deferred[None]:
        """As for any store; what is in memory stays there."""
        return succeed(None)


class SQLiteStore(MemoryStore):
    """Keeps everything in a file, too.

    Args:
        path: The file; made with mode 0600 if there is none. Of one that there is only its owner keeps rights.
        reactor: Where times are measured and what the thread has done is told; a Twisted reactor.
        now: Unix seconds UTC by the host's wall clock; read in the thread.
        failed: Is called for each read and write that failed.
    """

    _log = Logger()

    def __init__(self, path: Path, reactor: Any, now: Callable[[], float], failed: Callable[[], object]) -> None:
        super().__init__()
        self._path = path
        self._reactor = reactor
        self._now = now
        self._failed = failed
        self._database: Database | None = None  # while it is open
        self._changed = Changes({}, {})  # to be written, without what is being written
        self._writing = Changes({}, {})
        self._unread = True  # nothing was read yet
        self._next: IDelayedCall | None = None  # of the next batch; it stays until that begins
        self._lock = DeferredLock()  # one batch at a time

    def open(self) -> Deferred[None]:
        """As for any store; fires in `OPEN_SECONDS` at most."""
        if self._database is None:
            report = partial(self._reactor.callFromThread, self._report)
            self._database = Database(self._path, self._reactor, self._now, report)
            self._database.start()
        return self._within(OPEN_SECONDS, self._locked(self._write))

    def remember(self, name: str, what: Remembered) -> None:
        """As for any store."""
        self._accounts[name] = self._changed.accounts[name] = what
        self._write_soon()

    def forget(self, name: str) -> None:
        """As for any store."""
        super().forget(name)
        self._changed.accounts[name] = None
        self._write_soon()

    def retain(self, feed: str, sample: Retained) -> None:
        """As for any store."""
        self._samples[feed] = self._changed.samples[feed] = sample
        self._write_soon()

    def save(self) -> Deferred[None]:
        """As for any store; fires in `SAVE_SECONDS` at most."""
        return self._within(SAVE_SECONDS, self._locked(self._write))

    def close(self) -> Deferred[None]:
        """As for any store; fires in `SAVE_SECONDS` at most, and tells the log if something is lost.

        It may be opened again.
        """
        is_open = self._database is not None
        closed = self._within(SAVE_SECONDS, self._locked(self._close))
        return closed.addBoth(self._tell_of_loss) if is_open else closed

    async def _close(self) -> None:
        await self._write()
        if any(self._changed) and self.trouble is None:  # connections that end with the server are told of meanwhile
            await self._write()
        self._forget_next()
        database, self._database = self._database, None
        if database is not None:
            await database.call(database.close)
            database.stop()

    async def _write(self) -> None:
        """Have what has changed written, and what is new in the file read."""
        if self._database is None:
            return
        self._forget_next()
        late = self._reactor.callLater(SAVE_SECONDS, self._begin_trouble, f"{self._path}: {_SILENT}")
        self._writing, self._changed = self._changed, Changes({}, {})
        try:
            while (found := await self._database.call(self._database.exchange, self._writing)) is not None:
                self._writing = self._take_over(found)
        except Exception as error:  # noqa: BLE001  # nobody must suffer for it
            self._writing.accounts.update(self._changed.accounts)
            self._writing.samples.update(self._changed.samples)
            self._changed = self._writing
            self._failed()
            self._begin_trouble(self._words(error))
            self._write_in(RETRY_SECONDS)
        else:
            if self.trouble is not None:
                self.trouble = None
                self._log.info("{path}: written again, with all that had to wait", path=str(self._path))
        self._writing = Changes({}, {})
        if late.active():
            late.cancel()

    def _take_over(self, found: Found) -> Changes:
        """Take what another file holds, where memory has nothing; return all that is to be written to it."""
        lately = self._writing.accounts | self._changed.accounts
        forgotten = {name: None for name, what in lately.items() if what is None}
        for name in forgotten:
            found.accounts.pop(name, None)
        if self._unread:
            self._unread = False
            for name in self._accounts.keys() & found.accounts.keys():
                self._accounts[name] = _sum(found.accounts[name], self._accounts[name])
        changed = Changes(forgotten | self._accounts, self._samples.copy())
        self._accounts = found.accounts | self._accounts
        self._samples = found.samples | self._samples
        return changed

    def _write_soon(self) -> None:
        if self._next is None:
            self._write_in(BATCH_SECONDS)

    def _write_in(self, seconds: float) -> None:
        if self._database is not None and self._next is None:
            self._next = self._reactor.callLater(seconds, self._locked, self._write)

    def _forget_next(self) -> None:
        call, self._next = self._next, None
        if call is not None and call.active():
            call.cancel()

    def _locked(self, work: Callable[[], Any]) -> Deferred[None]:
        return self._lock.run(lambda: Deferred.fromCoroutine(work()))

    def _within(self, seconds: float, work: Deferred[None]) -> Deferred[None]:
        """Return what fires when `work` does, or after so long."""
        done: Deferred[None] = Deferred()
        late = self._reactor.callLater(seconds, done.callback, None)

        def finish(_: None) -> None:
            if late.active():
                late.cancel()
                done.callback(None)

        work.addCallback(finish)
        return done

    def _begin_trouble(self, trouble: str) -> None:
        if self.trouble != trouble:
            self._log.warn("{trouble}; meanwhile what is remembered is in memory only", trouble=trouble)
        self.trouble = trouble

    def _tell_of_loss(self, closed: T) -> T:
        if any(self._writing) or (any(self._changed) and self.trouble is not None):
            trouble = self.trouble or f"{self._path}: {_SILENT}"
            self._log.warn("{trouble}; what was remembered in memory only is lost", trouble=trouble)
        return closed

    def _words(self, error: Exception) -> str:
        if isinstance(error, sqlite3.Error):
            advice = _ADVICE.get(_kind(error), f"SQLite says: {error}; if it stays so, move the file away")
            return f"{self._path}: {advice}"
        if isinstance(error, OSError):
            return f"{self._path}: {error.strerror}; {_PLACE}"
        if isinstance(error, Unusable | Damaged):
            return f"{self._path}: {error}"
        trouble = f"{self._path}: the server failed; its log says why"
        if self.trouble != trouble:
            self._log.failure("what is remembered could not be written for a reason of the server's own")
        return trouble

    def _report(self, what: str) -> None:
        self._failed()
        self._log.warn("{path}: {what}", path=str(self._path), what=what)


class Unusable(Exception):
    """A file that is left alone; says why, and what to do."""


class Damaged(Exception):
    """A file that is no database any more; says how that was found."""


class Database:
    """The file, as the thread sees it.

    Args:
        path: Where it is, or is to be.
        reactor: Is told what calls have come to.
        now: Unix seconds UTC by the host's wall clock.
        report: Is told, in a sentence, what was found wrong and has been dealt with; called in the thread.
    """

    def __init__(self, path: Path, reactor: Any, now: Callable[[], float], report: Callable[[str], object]) -> None:
        self._path = path
        self._reactor = reactor
        self._now = now
        self._report = report
        self._pool: Any = None
        self._ready = False  # a connection is open, and what is in its file can be used
        self._unread = True  # the file is not the one that was read last
        # Open at least as long as the connection: to close a file gives up what locks SQLite has on it
        # (https://sqlite.org/howtocorrupt.html, 2.2). And as long as it is open there is no other of its inode.
        self._file = _NONE
        self._size = 0  # when it was looked at last
        self._sides: set[tuple[int, int]] = set()  # what files are the log of this one

    def start(self) -> None:
        """Start the thread; for the reactor's."""
        pool = self._pool = ConnectionPool(
            "sqlite3",
            str(self._path),
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions begin where it says so
            cp_min=0,  # it is made when there is something to do, and not before the next line
            cp_max=1,
            cp_reactor=self._reactor,
        )
        pool.threadpool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]  # it may hang
        pool.start()
        self._reactor.removeSystemEventTrigger(pool.shutdownID)  # it would wait for that, too
        pool.shutdownID = None

    def call(self, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Have something done by the thread, after what it was told before; for the reactor's."""
        return deferToThreadPool(self._reactor, self._pool.threadpool, what, *args, **kwargs)

    def stop(self) -> None:
        """End the thread, which has done all that it was told; for the reactor's."""
        self._pool.close()

    def close(self) -> None:
        """Let go of the file; SQLite puts into it what is in the log."""
        self._disconnect()
        self._forget()

    def exchange(self, changed: Changes) -> Found | None:
        """Write what has changed; or if the file is not the one that was read last, read it instead.

        Returns:
            What was read; None if `changed` was written.

        Raises:
            sqlite3.Error: It could not be done.
            OSError: As before.
            Unusable: The file is to be left alone.
            Damaged: That in its place was damaged, too.
        """
        try:
            return self._try(changed)
        except Damaged as error:
            self._move_aside(str(error))
        return self._try(changed)

    def _try(self, changed: Changes) -> Found | None:
        """Do what `exchange` does, without a remedy for damage; after any other error the file is opened anew."""
        try:
            return self._exchange(changed)
        except Damaged:
            raise
        except BaseException as error:
            if isinstance(error, sqlite3.Error) and _kind(error) in _DAMAGED:
                raise Damaged(f"is damaged ({error})") from error
            self._disconnect()
            raise

    def _exchange(self, changed: Changes) -> Found | None:
        if self._ready:
            self._look()
        if not self._ready:
            self._open()
        if self._unread:
            found = self._read()
            self._unread = False
            return found
        self._write(changed)
        return None

    def _look(self) -> None:
        """See whether the file is still what it was; of one that was replaced or removed, let go.

        Raises:
            Damaged: Somebody has written to it, and not by SQLite.
        """
        header, status = os.pread(self._file, 32, 0), os.fstat(self._file)
        page, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
        if not header.startswith(_HEADER):
            raise Damaged("was overwritten")
        # one of these alone is what VACUUM may do, or who is killed while the log is copied into the file
        if status.st_size < self._size and status.st_size < page * pages:
            raise Damaged("was cut short")
        self._size = status.st_size
        if not self._is_in_place():
            self._disconnect()

    def _is_in_place(self) -> bool:
        """Tell whether the path still leads to the file."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        """Open the file that is there, or make one."""
        replaced = self._file != _NONE and not self._is_in_place()
        missed = replaced and not self._unread  # it was in use
        if replaced:
            self._disconnect()  # one that could not be moved aside is still open
            for side in _SIDES:  # SQLite would take what it left there for the log of the next file
                if _identity(self._real + side) in self._sides:
                    Path(self._real + side).unlink()
            self._forget()
        _require_file(self._path)
        if self._file == _NONE:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if missed:
            self._report("was removed or replaced; the server goes on with what is there now, or makes it anew")
        self._connect()
        self._ready = True
        self._size = os.fstat(self._file).st_size

    def _connect(self) -> None:
        """Connect to the file that is open, and see that it can be used."""
        _require_header(os.pread(self._file, len(_HEADER), 0))
        connection = self._pool.connect()
        scripts = migrations()
        version = _require_ours(connection, len(scripts))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise Damaged(f"is damaged ({' '.join(found.split())})")
        migrate(connection, scripts, f"{self._real}.version-{version}-{self._stamp}")
        connection.text_factory = bytes  # or what is no UTF-8 would end the reading
        for end in ("", *_SIDES):
            with suppress(OSError):
                file = Path(self._real + end)
                mode = stat.S_IMODE(file.stat().st_mode) & stat.S_IRWXU
                # those beside one that is read-only are so too, and would stay so when it is no more
                file.chmod(mode | stat.S_IWUSR if end else mode)
        self._sides = {identity for side in _SIDES if (identity := _identity(self._real + side)) is not None}

    def _read(self) -> Found:
        return Found(self._rows(_READ_ACCOUNTS, _account), self._rows(_READ_SAMPLES, _sample))

    def _rows(self, query: str, make: Callable[..., T]) -> dict[str, T]:
        """Return values by name; a row that makes no sense costs itself, and not all of them."""
        found, lost = {}, 0
        for name, *columns in self._pool.connect().execute(query):
            try:
                found[name.decode()] = make(*columns)
            except ValueError:
                lost += 1
        if lost:
            self._report(f"{lost} of its rows make no sense and are left out")
        return found

    def _write(self, changed: Changes) -> None:
        connection = self._pool.connect()
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # fails where nothing can be written, even if there is nothing to be
            connection.executemany(
                _WRITE_ACCOUNT,
                (
                    (name, json.encode(what.subscriptions).decode(), *astuple(what)[1:])
                    for name, what in changed.accounts.items()
                    if what is not None
                ),
            )
            forgotten = [(name,) for name, what in changed.accounts.items() if what is None]
            connection.executemany(_FORGET_ACCOUNT, forgotten)
            connection.executemany(_WRITE_SAMPLE, ((feed, *astuple(what)) for feed, what in changed.samples.items()))

    def _move_aside(self, why: str) -> None:
        """Move the file away, with its log: first, because what is not in its place SQLite does not write to."""
        aside = unused(f"{self._real}.broken-{self._stamp}")
        try:
            for side in (*_SIDES, ""):
                with suppress(FileNotFoundError):
                    Path(self._real + side).rename(aside + side)
        except OSError as error:
            raise Unusable(f"{why}, and cannot be moved away ({error.strerror}); move it away") from error
        self._disconnect()
        self._forget()
        self._report(f"{why}; it is kept as {aside}, and a new one takes its place")

    def _disconnect(self) -> None:
        self._ready = False
        self._pool.disconnect(self._pool.connections.get(self._pool.threadID()))

    def _forget(self) -> None:
        """Let go of the file, to which there is no connection any more."""
        if self._file != _NONE:
            os.close(self._file)
        self._file, self._unread, self._sides = _NONE, True, set()

    @property
    def _real(self) -> str:
        """Where the file is in truth: SQLite puts the log there."""
        return os.path.realpath(self._path)

    @property
    def _stamp(self) -> str:
        return f"{datetime.fromtimestamp(self._now(), UTC):%Y%m%dT%H%M%SZ}"


def examine(path: Path) -> None:
    """See whether a store can keep something in a file, as far as that is known without writing to it.

    What is damaged passes: a store deals with it.

    Raises:
        Unusable: It cannot.
    """
    try:
        folder = Path(os.path.realpath(path)).parent
        os.close(os.open(folder, os.O_PATH | os.O_DIRECTORY))
        _require_file(path)
        is_there = path.exists()
        if is_there:
            with path.open("rb") as file:
                _require_header(file.read(len(_HEADER)))
    except OSError as error:
        raise Unusable(f"{error.strerror}; {_PLACE}") from error
    except ValueError as error:  # a null in the path
        raise Unusable(f"is no name of a file; {_PLACE}") from error
    if not os.access(folder, os.W_OK | os.X_OK) or (is_there and not os.access(path, os.W_OK)):
        raise Unusable(_ADVICE[sqlite3.SQLITE_READONLY])
    if is_there:
        place = f"{path.absolute().as_uri()}?mode=ro&immutable=1"  # it locks nothing, and makes no log
        with suppress(sqlite3.Error), closing(sqlite3.connect(place, uri=True)) as connection:
            _require_ours(connection, len(migrations()))


def migrations() -> list[str]:
    """Return the scripts that bring a database from one version to the next, the first from nothing."""
    found = (files("clockd") / "migrations").iterdir()
    return [script.read_text(encoding="utf-8") for script in sorted(found, key=lambda script: script.name)]


def migrate(connection: sqlite3.Connection, scripts: Sequence[str], backup: str) -> None:
    """Bring a database to the newest version.

    Args:
        connection: To the database; with no transaction, and none of its own.
        scripts: As `migrations` returns them.
        backup: Where it is copied to before, if there is anything in it.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < len(scripts) and _has_rows(connection):
        _back_up(connection, unused(backup))
    for number, script in enumerate(scripts[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT")


def unused(name: str) -> str:
    """Return a name that no file has, nor a log of one; if need be with a number behind it."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in names if not any(os.path.lexists(name + side) for side in ("", *_SIDES)))


def _require_file(path: Path) -> None:
    if path.exists() and not path.is_file():  # a FIFO would be waited for
        raise Unusable("is no regular file; name another in server.state")


def _require_header(begins: bytes) -> None:
    if begins not in {b"", _HEADER}:
        raise Unusable("is no database of SQLite; name another file in server.state")


def _require_ours(connection: sqlite3.Connection, newest: int) -> int:
    """Return the version of a database of ours, or an empty one."""
    version, application, tables = (
        connection.execute(query).fetchone()[0]
        for query in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
    )
    if tables and application != APPLICATION:
        raise Unusable("is a database of another program; name another file in server.state")
    if version > newest:
        raise Unusable("was made by a newer clockd; install that, or name another file in server.state")
    return int(version)


def _has_rows(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return any(connection.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}")').fetchone()[0] for (name,) in tables)  # noqa: S608


def _back_up(connection: sqlite3.Connection, name: str) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(name)) as copy:
            connection.backup(copy)
    except BaseException:
        Path(name).unlink()
        raise


def _account(subscriptions: bytes, *others: object) -> Remembered:
    return _value(Remembered, json.decode(subscriptions), *others)


def _sample(*columns: object) -> Retained:
    return _value(Retained, *columns)


def _value(kind: type[S], *fields: object) -> S:
    return convert(dict(zip(kind.__struct_fields__, fields, strict=True)), kind)


def _sum(kept: Remembered, since: Remembered) -> Remembered:
    """Return what is known of an account that was there before what was kept of it could be read."""
    return Remembered(
        since.subscriptions,
        kept.logins + since.logins,
        kept.pushes + since.pushes,
        since.first_seen if kept.first_seen is None else kept.first_seen,
        kept.last_seen if since.last_seen is None else since.last_seen,
    )


def _kind(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code (https://sqlite.org/rescode.html); of what is Python's, that of any error."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _identity(path: str) -> tuple[int, int] | None:
    """Return which file is there, if there is one."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
