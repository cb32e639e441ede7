"""Durations, sizes and times: read from what people write, written as people read."""

from __future__ import annotations

import re
from datetime import datetime

from supervisor.errors import Problem, UserError

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1}
for _power, _letter in enumerate("KMGTP", start=1):
    _BYTES[f"{_letter}iB"] = 1024**_power
    _BYTES[f"{_letter}B"] = 1000**_power
_BYTES["kB"] = 1000

_PART = r"(\d{1,19}(?:\.\d{1,9})?)\s*"
_DURATION_PART = re.compile(_PART + r"(ms|[smhdw])\s*", re.ASCII)
_SIZE = re.compile(_PART + rf"({'|'.join(_BYTES)})", re.ASCII)
_SHOWN_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_LONGEST_S = 100 * 365 * 86400.0  # a hundred years: more is a typing error, and overflows calendars
_LARGEST_BYTES = 2**62
#: Stands for "auto" where a limit is meant that is learned.
AUTO_S = -1.0
_HANG_WORDS = {"auto": AUTO_S, "never": 0.0}


def _refuse(what: str, expected: str, got: object, example: str) -> UserError:
    shown = f'"{got}"' if isinstance(got, str) and got.isprintable() and '"' not in got else repr(got)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    return UserError(problems=(Problem(what, expected=expected, got=shown, hint=example),))


def parse_duration(text: object) -> float:
    """Seconds of a duration such as "5m", "1h30m", "500ms". Raises UserError, also for bare numbers."""
    expected = 'a text with a unit, such as "90s", "5m", "1h30m", "3d"'
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise _refuse("a duration needs a unit", expected, text, f'write "{text}s" if seconds are meant')
    if not isinstance(text, str) or not text.strip():
        raise _refuse("this is not a duration", expected, text, 'write for example "5m"')
    seconds, position, seen = 0.0, 0, set[str]()
    stripped = text.strip()
    while position < len(stripped):
        part = _DURATION_PART.match(stripped, position)
        if part is None or part[2] in seen:
            raise _refuse("this is not a duration", expected, text, "units: ms, s, m, h, d, w, each once")
        seen.add(part[2])
        seconds += float(part[1]) * _SECONDS[part[2]]
        position = part.end()
    if seconds > _LONGEST_S:
        raise _refuse("this duration is longer than a hundred years", expected, text, "check the unit")
    return seconds


def parse_interval(text: object) -> float:
    """Seconds of a duration of at least a second: how often something is looked at. Raises UserError."""
    seconds = parse_duration(text)
    if seconds < 1:
        raise UserError(problems=(Problem("looking so often costs more than it finds", expected='at least "1s"'),))
    return seconds


def parse_hang_after(text: object) -> float:
    """Seconds of a duration of at least a second, 0.0 of "never", AUTO_S of "auto". Raises UserError."""
    if isinstance(text, str) and text in _HANG_WORDS:
        return _HANG_WORDS[text]
    seconds = parse_duration(text) if isinstance(text, str) and text[:1].isdigit() else 0.0
    if seconds < 1:
        raise _refuse("wrong value", '"auto", "never" or a duration from "1s" on', text, '"30m" means: hung after that')
    return seconds


def format_hang_after(seconds: float) -> str:
    """What parse_hang_after read."""
    word = next((word for word, known in _HANG_WORDS.items() if known == seconds), "")
    return word or format_duration(seconds, exact=True)


def parse_size(text: object) -> int:
    """Bytes of a size such as "20GiB" (powers of 1024) or "500MB" (powers of 1000). Raises UserError."""
    expected = 'a text with a unit, such as "20GiB" or "500MB"'
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise _refuse("a size needs a unit", expected, text, f'write "{text}B" if bytes are meant')
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        units = "B, kB, MB, GB, TB (times 1000) and KiB, MiB, GiB, TiB (times 1024)"
        raise _refuse("this is not a size", expected, text, f"units are {units}")
    size = int(float(match[1]) * _BYTES[match[2]]) if "." in match[1] else int(match[1]) * _BYTES[match[2]]
    if size > _LARGEST_BYTES:
        raise _refuse("this size is larger than any disk", expected, text, "check the unit")
    return size


def format_duration(seconds: float, *, exact: bool = False) -> str:
    """Such as "45s", "1h30m" or "3d4h": the two largest units; with `exact` all of them."""
    if seconds < 0:
        return "-" + format_duration(-seconds, exact=exact)
    whole, fraction = divmod(seconds if exact else round(seconds, 1), 1)
    if fraction and (exact or seconds < 10):
        tail = f"{whole % 60 + fraction:.3f}".rstrip("0").rstrip(".") + "s"
        return (format_duration(whole - whole % 60, exact=True) if whole >= 60 else "") + tail
    rest, shown = int(whole) if exact else round(seconds), list[str]()
    for unit, length in _SHOWN_UNITS:
        count, rest = divmod(rest, length)
        if count:
            shown.append(f"{count}{unit}")
        if shown and not exact and (len(shown) == 2 or not count):
            break  # "1d5s" would hide that hours and minutes were left out
    return "".join(shown) or "0s"


def format_size(size_bytes: int, *, exact: bool = False) -> str:
    """Such as "1.5GiB"; with `exact` the largest unit that loses nothing, such as "1536MiB"."""
    value, unit = size_bytes, 0
    if exact:
        while value and value % 1024 == 0 and unit < len(_BINARY_UNITS) - 1:
            value, unit = value // 1024, unit + 1
        return f"{value}{_BINARY_UNITS[unit]}"
    shown = float(size_bytes)
    while abs(shown) >= 1024 and unit < len(_BINARY_UNITS) - 1:
        shown, unit = shown / 1024, unit + 1
    number = f"{shown:.1f}" if shown < 100 else f"{shown:.0f}"
    return f"{number.removesuffix('.0')}{_BINARY_UNITS[unit]}"


def format_time(at: float, now: float | None = None) -> str:
    """Local time for people: "2026-11-22 14:03:05", or only "14:03:05" on the same day as `now`."""
    moment = datetime.fromtimestamp(at).astimezone()
    if now is not None and datetime.fromtimestamp(now).astimezone().date() == moment.date():
        return f"{moment:%H:%M:%S}"
    return f"{moment:%Y-%m-%d %H:%M:%S}"
