"""The evidence about one GPU in one file, for its vendor or a bug report: small, readable, and without secrets.

Made by whoever asks, not by the daemon: it works while no daemon runs, and a driver that hangs holds up nobody else.
What could not be had is named in MANIFEST.json with the reason; nothing that is missing is passed over.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import pwd
import re
import socket
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from supervisor import __version__
from supervisor.config import Config
from supervisor.core.redact import Redactor
from supervisor.effects import gpu_bundle_parts as parts
from supervisor.effects.gpu_bundle_parts import Member, Missing

VERSION = 1
LARGEST_BYTES = 16 * 1024 * 1024  # of all members together, before they are compressed: an e-mail takes it
LIMIT_S = 90.0
_LEAST_KEY = 8  # characters
_HOST = re.compile(r"[\w-]+(\.[\w-]+)+|services|webhooks?|workflows", re.IGNORECASE)
_STAYS = "names of runs, projects, files and data sets, and the GPU's UUID and serial number"

View = Mapping[str, Any]


def write(path: Path, view: View, settings: Config, *, redact: bool = True) -> dict[str, Any]:
    """Write the bundle (mode 0600) about the GPU of `view` (gpus.views.gpu_view); its manifest.

    `redact`: also names of people, home folders and the host. Raises FileExistsError, and OSError where it cannot be
    written; then nothing is left behind.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            manifest = _written(file, view, settings, redact=redact)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return manifest


def _written(file: io.BufferedWriter, view: View, settings: Config, *, redact: bool) -> dict[str, Any]:
    redactor = Redactor(names=redact)
    _learn_machine(redactor, view, settings)
    gathered = list(parts.gather(view, settings, redactor, time.monotonic() + LIMIT_S))
    members = [one for one in gathered if isinstance(one, Member)]
    missing = [one for one in gathered if isinstance(one, Missing)]
    for member in members:
        redactor.learn_people_in(member.text)
    folder = f"gpu-bundle-{view['index']}"
    kept = list(_within(members, missing, redactor))
    manifest = _manifest(view, kept, missing, redactor, redact=redact)
    with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, f"{folder}/MANIFEST.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        for name, data, _ in kept:
            _add(tar, f"{folder}/{name}", data)
    return manifest


def _within(members: list[Member], missing: list[Missing], redactor: Redactor) -> Iterator[tuple[str, bytes, Member]]:
    """The members as they go out, as long as there is room for them."""
    left = LARGEST_BYTES
    for member in members:
        data = member.rendered(redactor).encode("utf-8", "replace")
        if len(data) > left:
            missing.append(Missing(member.name, "the bundle would be too large"))
            continue
        left -= len(data)
        yield redactor.text(member.name), data, member


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    tar.addfile(entry, io.BytesIO(data))


def _manifest(
    view: View, kept: list[tuple[str, bytes, Member]], missing: list[Missing], redactor: Redactor, *, redact: bool
) -> dict[str, Any]:
    people = "user names, home folders, e-mail addresses and the host's name are replaced"
    return {
        "format": VERSION,
        "made_at": time.time(),
        "program": f"yolo-supervisor {__version__}",
        "gpu": view["label"],
        "uuid": view["uuid"],
        "daemon": "did not run: values are not live" if view.get("offline") else "ran",
        "redacted": {
            "secrets": "values that are named or shaped like secrets, and all of addresses behind the host, are hidden",
            "names": people if redact else "user names, home folders and the host's name were left in, as asked for",
            "stays": _STAYS,
            "never in it": "environments and command lines of trainings (launch.json), job files, checkpoints, data",
        },
        "members": [
            {"name": name, "what": member.what, "bytes": len(data), **({"cut": member.cut} if member.cut else {})}
            for name, data, member in kept
        ],
        "left_out": [redactor.data({"what": one.what, "why": one.why}) for one in missing],
    }


def _learn_machine(redactor: Redactor, view: View, settings: Config) -> None:
    """Who is here, what the machine is called, and which secrets the configuration and our environment hold."""
    redactor.learn_from(dict(os.environ))
    redactor.learn_from({"env": dict(settings.defaults.env), "settings": dict(settings.defaults.settings)})
    for channel in settings.channel:
        address = urlsplit(channel.url)
        redactor.learn_secret(channel.url, channel.secret, *filter(_is_key, re.split(r"[/?&=]", channel.url)))
        redactor.learn_secret(address.password or "", address.path)
    redactor.learn_host(socket.gethostname(), settings.server.name)
    with suppress(KeyError, OSError):
        redactor.learn_person(getpass.getuser())
    redactor.learn_person(os.environ.get("SUDO_USER", ""), *_people())
    redactor.learn_person(*(holder["user"] for holder in view["holders"] if holder["user"]))
    redactor.learn_from(json.loads(json.dumps(dict(view))))


def _is_key(part: str) -> bool:
    """True for what in an address may be a key, and is no word."""
    return len(part) >= _LEAST_KEY and ":" not in part and not _HOST.fullmatch(part)


def _people() -> list[str]:
    """The accounts of people; where they are kept elsewhere than in /etc/passwd, their home folders tell."""
    first, last = 1000, 60000  # shadow's login.defs: UID_MIN and UID_MAX
    return [entry.pw_name for entry in pwd.getpwall() if first <= entry.pw_uid <= last]
