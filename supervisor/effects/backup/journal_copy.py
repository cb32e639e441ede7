"""A copy of the journal that is whole: SQLite's own backup, from a reader, while the daemon goes on writing.

The configuration does not go along: it holds the secrets of channels, and it is the administrator's. The jobs' files
are in the journal.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from supervisor import durable

NAME = "journal.sqlite3"
_BUSY_MS = 10_000


def copy_journal(journal: Path, target: Path) -> str:
    """Let `target` be a durable, checked copy in one file; a word that names this journal among all others.

    Raises FileNotFoundError where there is no journal, sqlite3.Error where it or its copy is damaged, OSError. Then
    there is no `target`.
    """
    if not journal.exists():
        raise FileNotFoundError(journal)
    target.unlink(missing_ok=True)
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _copy(journal, target)
        word = _checked(target)
        durable.sync(target)
    except BaseException:
        for end in ("", "-wal", "-shm", "-journal"):
            target.with_name(f"{target.name}{end}").unlink(missing_ok=True)
        raise
    return word


def _copy(journal: Path, target: Path) -> None:
    quoted = str(journal).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    with (
        contextlib.closing(sqlite3.connect(f"file:{quoted}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        source.backup(copy)  # in one go: a writer between two steps would make it begin anew, again and again


def _checked(copy: Path) -> str:
    """Look through the copy; it becomes one plain file, without SQLite's files beside it."""
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise sqlite3.DatabaseError(f"the journal is damaged: {'; '.join(found)}")
        first = connection.execute("SELECT at FROM events ORDER BY seq LIMIT 1").fetchone()
    return f"begun {first[0]!r}" if first else ""
