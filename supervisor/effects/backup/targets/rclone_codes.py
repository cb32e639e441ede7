"""What rclone says when something fails, as a cause of core/backups/causes.py. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

#: Of rclone's documented exit codes those that say more than "failed": a missing folder, a fault that passes, an end in
#: time. 7 (fatal) and 6 (a fault that stays) are told by their text.
_OF_CODE = {3: "absent", 4: "absent", 5: "protocol", 8: "quota", 10: "timeout"}

#: The first that is found wins: a text names the whole chain of what went wrong, the most telling things come first.
_SIGNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (cause, re.compile(pattern, re.IGNORECASE))
    for cause, pattern in (
        ("host-key", r"x509:|certificate (?:is not trusted|signed by unknown)|ssh: host key mismatch|key mismatch"),
        ("host-unknown", r"knownhosts: key is unknown"),
        ("quota", r"quota|ServiceLimitExceeded|EntityTooLarge"),
        ("full", r"no space left|StorageFull|insufficient storage|status code: 507|DiskFull|SlowDownWrite"),
        ("read-only", r"read-only file system|ReadOnly|XMinioObjectTampered"),
        (
            "auth",
            (
                r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|TokenRefreshRequired|AuthFailure"
                r"|InvalidSecurity|AuthorizationHeaderMalformed|RequestTimeTooSkewed|NoCredentialProviders"
                r"|unable to authenticate|couldn't connect ssh|status code: 401|401 Unauthorized"
            ),
        ),
        ("absent", r"NoSuchBucket|bucket (?:does not exist|not found)|directory not found|didn't find section"),
        (
            "permission",
            r"AccessDenied|AllAccessDisabled|permission denied|status code: 403|403 Forbidden|MethodNotAllowed",
        ),
        ("timeout", r"i/o timeout|deadline exceeded|handshake timeout|Client\.Timeout|RequestTimeout"),
        (
            "unreachable",
            (
                r"no such host|connection refused|network is unreachable|no route to host|server misbehaving"
                r"|host is down|proxyconnect|couldn't connect"
            ),
        ),
        ("refused", r"immutable file modified|unknown flag|config file .*not found|doesn't support"),
        (
            "protocol",
            (
                r"\bEOF\b|connection reset|broken pipe|SlowDown|ServiceUnavailable|InternalError|status code: 5\d\d"
                r"|use of closed network connection|stream error"
            ),
        ),
        ("absent", r"status code: 404|404 Not Found"),
    )
)
_STAMP = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?:(?:ERROR|NOTICE|CRITICAL|INFO)\s*: )?")
_QUERY = re.compile(r"(https?://[^\s?\"]+)\?[^\s\"]*")  # of an address: it may hold a signature
_NO_SEEK = "Failed to seek log file"  # said of a log that goes to a pipe, and of no harm
_LONGEST_TEXT = 500  # characters


def cause_of(code: int, lines: Iterable[str]) -> tuple[str, str]:
    """The cause of a failure and a text for a person. `lines`: its standard error."""
    said = [text for line in lines if (text := words(line))]
    text = said[-1] if said else f"rclone ended with {code}"
    whole = "\n".join(said)
    cause = next((cause for cause, pattern in _SIGNS if pattern.search(whole)), _OF_CODE.get(code, "failed"))
    telling = next((line for line in said if _is_of(cause, line)), text)
    return cause, _QUERY.sub(r"\1", telling)[:_LONGEST_TEXT]


def _is_of(cause: str, line: str) -> bool:
    return any(cause == name and pattern.search(line) for name, pattern in _SIGNS)


def words(line: str) -> str:
    """What a line of standard error says: without its time, and of a log line its message and what it is about."""
    record = log_record(line)
    if _NO_SEEK in line:
        return ""
    if record is None:
        return " ".join(_STAMP.sub("", line).split())
    if record.get("stats"):
        return ""
    about, message = record.get("object"), " ".join(str(record.get("msg", "")).split())
    return f"{about}: {message}" if about else message


def log_record(line: str) -> dict[str, Any] | None:
    """A line of `--use-json-log`; None for any other one."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def sent_bytes(line: str) -> int | None:
    """How far a transfer is, as a line of statistics says; None for any other line."""
    record = log_record(line)
    stats = record.get("stats") if record is not None else None
    count = stats.get("bytes") if isinstance(stats, dict) else None
    return count if isinstance(count, int) else None
