"""Read a checkpoint's zip as strictly as torch writes it, so that nothing altered passes for whole.

Every byte of the file must belong to a record, to the directory or to its end; what the directory says of a record
must stand before the record too; the CRC of every record is computed. Python's own zipfile leaves several of
these open, torch checks none of them.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any, Callable, Dict, List, Optional, Tuple

from .pickle_scan import Damaged

CHUNK_BYTES = 512 * 1024  # fits into the cache of a core, so that CRC and search read memory once
#: A directory entry takes about 80 bytes, the largest models have some ten thousand records.
DIRECTORY_LIMIT_BYTES = 32 * 1024 * 1024

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_NO_COUNT, _NO_SIZE = 0xFFFF, 0xFFFFFFFF
_NEWEST_VERSION = 63  # of the zip format, times ten; torch writes 0, Python 20 or 45
_SIZES_FOLLOW, _NAMES_ARE_UTF8 = 0x0008, 0x0800
_LOCAL_MORE_BYTES = 64  # of the extra field that are read at once; sizes of 8 bytes stand at its beginning

#: Called with each chunk of a record's content; may raise Damaged.
Watch = Callable[[bytearray], None]


class Record:
    """One file in the zip, as the directory tells it; `data_at` and `end_at` are known once its header was read."""

    __slots__ = ("crc", "data_at", "end_at", "flags", "name", "offset", "raw_name", "size", "stamp")

    def __init__(
        self, raw_name: bytes, flags: int, stamp: Tuple[int, int], *, crc: int, size: int, offset: int
    ) -> None:
        self.raw_name = raw_name
        self.name = raw_name.decode("utf-8", "replace")
        self.flags = flags
        self.stamp = stamp
        self.crc = crc
        self.size = size
        self.offset = offset
        self.data_at = 0
        self.end_at = 0


class Archive:
    """The zip behind an open descriptor. Every method raises Damaged for what is wrong with it."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        """Read the directory and every record's header: no content yet."""
        self._descriptor = descriptor
        self._buffer = bytearray(CHUNK_BYTES)
        directory_at, directory_bytes, count = self._end(size_bytes)
        if directory_bytes > DIRECTORY_LIMIT_BYTES:
            raise Damaged(f"a directory of {directory_bytes} bytes is larger than any checkpoint's")
        entries = _entries(self._read(directory_at, directory_bytes), count)
        self.records: Dict[str, Record] = {entry.name: entry for entry in entries}
        if len(self.records) != len(entries):
            raise Damaged("two records have the same name")
        self._lay_out(sorted(entries, key=lambda entry: entry.offset), directory_at)
        #: torch can be told to write no CRC; then all are 0, also those of content.
        self.without_crc = any(entry.size for entry in entries) and not any(entry.crc for entry in entries)

    def _read(self, at: int, length: int) -> bytes:
        content = os.pread(self._descriptor, length, at)
        if len(content) != length:
            raise Damaged("no whole zip: it ends early")
        return content

    def _end(self, size_bytes: int) -> Tuple[int, int, int]:
        """Return where the directory is, its length and its number of entries."""
        end_at = size_bytes - _END.size
        if end_at < 0:
            raise Damaged("no whole zip: too short")
        mark, disk, first_disk, here, count, length, start, comment = _END.unpack(self._read(end_at, _END.size))
        if mark != b"PK\5\6" or comment:
            raise Damaged("no whole zip: the end of its directory is not at the end of the file")
        if disk or first_disk or here != count:
            raise Damaged("no whole zip: it claims to be one of several")
        large = self._end64(end_at)
        if large is None:
            found, after = (start, length, count), end_at
        else:
            found, after = large
            pairs = ((start, found[0], _NO_SIZE), (length, found[1], _NO_SIZE), (count, found[2], _NO_COUNT))
            if any(small not in {value, unknown} for small, value, unknown in pairs):
                raise Damaged("no whole zip: its two ends tell different things")
        if found[0] + found[1] != after:
            raise Damaged("no whole zip: its directory is not where it should be")
        return found

    def _end64(self, end_at: int) -> Optional[Tuple[Tuple[int, int, int], int]]:
        """Return the same from the end record for large files, which torch always writes, and where that is."""
        locator_at = end_at - _LOCATOR.size
        if locator_at < _END64.size:
            return None
        mark, disk, large_at, disks = _LOCATOR.unpack(self._read(locator_at, _LOCATOR.size))
        if mark != b"PK\6\7":
            return None
        if disk or disks != 1 or large_at + _END64.size != locator_at:
            raise Damaged("no whole zip: the second end of its directory is not where it should be")
        values = _END64.unpack(self._read(large_at, _END64.size))
        mark, more, _by, _needs, disk, first_disk, here, count, length, start = values
        if mark != b"PK\6\6" or more != _END64.size - 12 or disk or first_disk or here != count:
            raise Damaged("no whole zip: the second end of its directory is altered")
        return (start, length, count), large_at

    def _lay_out(self, entries: List[Record], directory_at: int) -> None:
        """Go through the records as they lie: each begins where the one before ended."""
        at = 0
        for place, entry in enumerate(entries):
            if entry.offset != at:
                what = "overlaps the one before it" if entry.offset < at else "has foreign bytes before it"
                raise Damaged(f"record {entry.name} {what}")
            self._read_header(entry)
            at = entries[place + 1].offset if place + 1 < len(entries) else directory_at
            self._check_trailer(entry, at)
        if at != directory_at:
            raise Damaged("there are foreign bytes before the directory")

    def _read_header(self, entry: Record) -> None:
        length = _LOCAL.size + len(entry.raw_name)
        header = os.pread(self._descriptor, length + _LOCAL_MORE_BYTES, entry.offset)
        if len(header) < length:
            raise Damaged(f"record {entry.name} is cut")
        mark, _needs, flags, method, *rest = _LOCAL.unpack(header[: _LOCAL.size])
        time, date, crc, packed, size, name_length, more = rest
        name = header[_LOCAL.size : length]
        same = (name_length, flags, method, (time, date)) == (len(name), entry.flags, 0, entry.stamp)
        if mark != b"PK\3\4" or name != entry.raw_name or not same:
            raise Damaged(f"record {entry.name}: its header is not what the directory says")
        sizes = _wide((size, packed), header[length : length + more])
        known = crc, sizes
        expected = entry.crc, [entry.size, entry.size]
        if known != expected and not (flags & _SIZES_FOLLOW and known == (0, [0, 0])):
            raise Damaged(f"record {entry.name}: its header is not what the directory says")
        entry.data_at = entry.offset + length + more
        entry.end_at = entry.data_at + entry.size

    def _check_trailer(self, entry: Record, next_at: int) -> None:
        """Compare what stands behind a record: nothing, or its CRC and sizes once more."""
        length = next_at - entry.end_at
        if length == 0 and not entry.flags & _SIZES_FOLLOW:
            return
        if length not in {12, 16, 20, 24} or not entry.flags & _SIZES_FOLLOW:
            what = "overlaps what follows it" if length < 0 else "does not end where the next one begins"
            raise Damaged(f"record {entry.name} {what}")
        content = self._read(entry.end_at, length)
        mark = b"PK\7\x08" if length in {16, 24} else b""
        form = "<L2Q" if length >= 20 else "<L2L"
        if content != mark + struct.pack(form, entry.crc, entry.size, entry.size):
            raise Damaged(f"record {entry.name}: what follows it is not what the directory says")

    def read(self, entry: Record) -> bytes:
        """Return a record's whole content, its CRC proven."""
        content = self._read(entry.data_at, entry.size)
        if zlib.crc32(content) != entry.crc and not self.without_crc:
            raise Damaged(f"wrong CRC in {entry.name}")
        return content

    def verify(self, entry: Record, watch: Optional[Watch] = None) -> None:
        """Read a record once: compute its CRC and let `watch` see it, in chunks of whole numbers."""
        at, crc = entry.data_at, 0
        while at < entry.end_at:
            chunk = self._fill(at, min(CHUNK_BYTES, entry.end_at - at))
            crc = zlib.crc32(chunk, crc)
            at += len(chunk)
            if watch is not None:
                watch(chunk)
        if crc != entry.crc and not self.without_crc:
            raise Damaged(f"wrong CRC in {entry.name}")

    def _fill(self, at: int, length: int) -> bytearray:
        chunk = self._buffer if length == CHUNK_BYTES else bytearray(length)
        done = 0
        while done < length:
            got = os.preadv(self._descriptor, [memoryview(chunk)[done:]], at + done)
            if not got:
                raise Damaged("no whole zip: it ends early")
            done += got
        return chunk


def _entries(directory: bytes, count: int) -> List[Record]:
    entries = []
    at = 0
    while at < len(directory):
        entry, at = _entry(directory, at)
        entries.append(entry)
    if len(entries) != count:
        raise Damaged(f"no whole zip: its directory has {len(entries)} entries, not {count}")
    return entries


def _entry(directory: bytes, at: int) -> Tuple[Record, int]:
    if len(directory) - at < _ENTRY.size:
        raise Damaged("no whole zip: its directory is cut")
    mark, _by, needs, flags, method, time, date, crc, packed, size, *rest = _ENTRY.unpack_from(directory, at)
    name_length, more, comment, disk, _inner, _outer, offset = rest
    name_at = at + _ENTRY.size
    name = directory[name_at : name_at + name_length]
    end = name_at + name_length + more + comment
    if mark != b"PK\1\2" or end > len(directory) or disk or needs > _NEWEST_VERSION:
        raise Damaged("no whole zip: its directory is altered")
    size, packed, offset = _wide((size, packed, offset), directory[name_at + name_length : end - comment])
    text = name.decode("utf-8", "replace")
    if flags & ~(_SIZES_FOLLOW | _NAMES_ARE_UTF8) or method or packed != size:
        raise Damaged(f"record {text} is compressed or encrypted, which torch never does")
    return Record(name, flags, (time, date), crc=crc, size=size, offset=offset), end


def _wide(values: Tuple[Any, ...], extra: bytes) -> List[int]:
    """Return sizes and offset, those that do not fit into 4 bytes from the extra field for large files."""
    found = list(values)
    missing = [place for place, value in enumerate(found) if value == _NO_SIZE]
    at = 0
    while missing and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 8 * len(missing) and at + 4 + length <= len(extra):
            for place, value in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, at + 4)):  # noqa: B905
                found[place] = value
            return found
        at += 4 + length
    return found
