"""What rsync and ssh say when something fails, as a cause of core/backups/causes.py. Pure."""

from __future__ import annotations

import re

LONGEST_TEXT = 400  # characters of what is shown to a person

#: What an exit code says by itself, from rsync(1) "EXIT VALUES"; 124 to 127 are those of shells, 255 that of ssh.
#: Every other code is "failed": a code that nobody knows is no success.
CODES = {
    1: "refused",
    2: "refused",
    4: "refused",
    5: "protocol",
    10: "protocol",
    12: "protocol",
    25: "refused",
    30: "timeout",
    35: "timeout",
    126: "no-rsync",
    127: "no-rsync",
    255: "unreachable",
}

#: Of ssh itself and of what stands at its other end: they say more than rsync, which only sees a broken pipe.
_CONNECTION = (
    ("host-key", r"HOST IDENTIFICATION HAS CHANGED|HOST KEY REVOKED|marked as revoked|host key .*\bhas changed"),
    ("host-unknown", r"No \S+ host key is known for|Host key verification failed"),
    (
        "auth",
        (
            r"Permission denied \((?:publickey|password|keyboard|gssapi|hostbased)|Too many authentication failures"
            r"|UNPROTECTED PRIVATE KEY|bad permissions|Load key|no mutual signature|Identity file .* not accessible"
            r"|account is (?:locked|expired)|account has expired"
        ),
    ),
    (
        "timeout",
        r"Connection timed out|Operation timed out|Timeout, server|timeout in data|io timeout|max-alloc timeout",
    ),
    (
        "unreachable",
        (
            r"Could not resolve hostname|Name or service not known|Connection refused|No route to host"
            r"|Network is unreachable|Host is down|kex_exchange_identification|Connection closed by \S+ port"
            r"|Connection reset by \S+ port|banner exchange|Unable to negotiate|Not allowed at this time"
        ),
    ),
    ("absent", r"Restricted directory does not exist|unable to chdir to restricted dir"),
    ("absent", r"rrsync error: post-realpath open failed .*No such file or directory"),
    ("busy", r"Another instance of rrsync is already accessing"),
    ("refused", r"rrsync error|not allowed on this server|has been disabled on this server|is read only"),
    ("no-rsync", r"rsync: (?:command )?not found|command not found|rsync: No such file|Failed to exec ssh"),
    ("no-rsync", r"^\S*sh: .*rsync.*(?:not found|No such file)"),
)

#: Of the file systems at both ends. The end that says it stands in brackets: [sender], [Receiver], [generator].
_FILES = (
    ("full", r"No space left on device"),
    ("quota", r"Disk quota exceeded"),
    ("read-only", r"Read-only file system"),
    ("timeout", r"Stale file handle|Transport endpoint is not connected"),
    ("permission", r"Permission denied \(13\)|Operation not permitted \(1\)"),
    ("absent", r"(?:mkdir|change_dir)(?:#\d)? \"[^\"]*/\.?\" failed: (?:No such file|Not a directory)"),
)
_CONNECTION_SIGNS = tuple((cause, re.compile(pattern, re.IGNORECASE | re.MULTILINE)) for cause, pattern in _CONNECTION)
_FILE_SIGNS = tuple((cause, re.compile(pattern)) for cause, pattern in _FILES)
_BROKEN = re.compile(r"Broken pipe|closed by remote host|connection unexpectedly closed|client_loop: send disconnect")
_FINGERPRINT = re.compile(r"\b(?:SHA256:[A-Za-z0-9+/=]{20,60}|MD5:[0-9a-f:]{47})")
_OFFENDING = re.compile(r"Offending \S+ key in (\S{1,200}:\d+)")
_MISSING = re.compile(r"(?:link_stat|change_dir) \"[^\"]*\" failed: No such file or directory|file has vanished")
_LOCAL = {False: "[sender", True: "[receiver"}  # pulling: files are written here
_OUR_OWN = {"full": "no-room", "quota": "no-room"}  # of the disk that is written to here
_UNTOLD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_DULL = re.compile(
    r"^(?:@+|rsync error:.*|rsync warning:.*|rsync: connection unexpectedly.*|.*write error: Broken.*|)$"
)
_VERSION = re.compile(r"rsync\s+version v?(\d+)\.(\d+)\.(\d+)")
_PROTOCOL = re.compile(r"Protocol versions: remote=(\d+)")

Version = tuple[int, int, int]


def cause_of(code: int, errors: str, *, pulling: bool = False) -> tuple[str, str]:
    """Return the cause of a failure and a text for a person. `pulling`: files were fetched, not sent."""
    text = _UNTOLD.sub("", errors.replace("\r", "\n"))
    lines = text.splitlines()
    for cause, pattern in _CONNECTION_SIGNS:
        found = pattern.search(text)
        if found is not None:
            return cause, _said(code, lines, found.group()) + (_shown_key(text) if cause == "host-key" else "")
    for line in lines:
        here = _is_here(line, pulling=pulling)
        for cause, pattern in _FILE_SIGNS:
            if pattern.search(line):
                return (_ours(cause, pulling=pulling) if here else cause), _said(code, lines, line)
        if here and not pulling and (_MISSING.search(line) or "Input/output error" in line):
            return "source", _said(code, lines, line)
    return _by_code(code, text), _said(code, lines)


def _shown_key(text: str) -> str:
    """The fingerprint that the host shows, to be compared with its administrator's, and the line that pins another."""
    shown, pinned = _FINGERPRINT.search(text), _OFFENDING.search(text)
    told = [f"it shows {shown.group()}" if shown else "", f"the pinned key is in {pinned[1]}" if pinned else ""]
    return "".join(f"; {one}" for one in told if one)


def _is_here(line: str, *, pulling: bool) -> bool:
    lowered = line.lower()
    return _LOCAL[pulling] in lowered or (pulling and "[generator" in lowered)


def _ours(cause: str, *, pulling: bool) -> str:
    """The cause where the trouble is on this machine: in the staging folder, or where files are fetched to."""
    return _OUR_OWN.get(cause, "failed") if pulling else "source"


def _by_code(code: int, text: str) -> str:
    if code == 255 and _BROKEN.search(text):
        return "protocol"
    return CODES.get(code, "failed")


def _said(code: int, lines: list[str], telling: str = "") -> str:
    """The line that tells most, and how the program ended."""
    line = next((line for line in lines if telling and telling in line), "")
    line = line or next((line for line in lines if not _DULL.match(line)), "") or (lines[-1] if lines else "")
    how = f"rsync was killed by signal {-code}" if code < 0 else f"rsync ended with code {code}"
    return f"{line.strip()[:LONGEST_TEXT]} ({how})" if line.strip() else how


# ---- versions
FIXED: Version = (3, 5, 0)
FIXED_PROTOCOL = 32  # of 3.4.0 and newer: whoever speaks an older one is older
HOLES = "3.5.0 closes 33 security holes"


def version_in(text: str) -> Version | None:
    """The version that `rsync --version` tells."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found is not None else None


def protocol_in(text: str) -> int | None:
    """The protocol of the other end, as `--debug=proto` tells it."""
    found = _PROTOCOL.search(text)
    return int(found[1]) if found is not None else None


def warning(here: Version | None, there: Version | None, protocol: int | None) -> str:
    """Say which end is older than the version that closes known holes; empty if none is known to be.

    `protocol` is what is known of the other end where it does not tell its version.
    """
    old = [f"{_number(version)} {where}" for version, where in ((here, "here"), (there, "there")) if _is_old(version)]
    if there is None and protocol is not None and protocol < FIXED_PROTOCOL:
        old.append(f"older than 3.4.0 there (protocol {protocol})")
    return f"rsync {' and '.join(old)}: {HOLES}" if old else ""


def _is_old(version: Version | None) -> bool:
    return version is not None and version < FIXED


def _number(version: Version | None) -> str:
    return ".".join(str(part) for part in version or ())
