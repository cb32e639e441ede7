"""Export weights with Ultralytics: ``python export.py [--tied] [--device D] FILE FORMAT``.

Run with the job's own Python. The result lies beside FILE, so that FILE is a copy in a folder of its own. Loading
executes what the file says, as every training does. Nothing is installed and nothing is fetched: an export that
needs the network fails and says so. Prints one JSON object: version, ok, path (absolute), text (what went wrong).
Exit code 0: exported, 1: not.

    --tied       end when standard input is closed: whoever started this is gone
    --device D   as Ultralytics takes it; default: cpu
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path:
    sys.path.pop(0)  # this folder: its modules must not be taken for others of the same name

import argparse
import json
import os
import socket
import threading
from typing import Any, Dict, List, NoReturn, Optional

EXPORTED, NOT_EXPORTED = 0, 1
_TEXT_CHARACTERS = 500
_OFFLINE = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}


class NoNetworkError(OSError):
    """Something wanted to fetch something."""


def main(words: Optional[List[str]] = None) -> int:
    """Export the file that is named; see the module."""
    options = _options(words)
    if options.tied:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not stand in the answer
    answer: Dict[str, Any] = {"version": 1, "ok": False, "path": "", "text": ""}
    try:
        answer["path"] = export(os.path.abspath(options.file), options.format, options.device)
        answer["ok"] = True
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- exporters of all kinds, which raise anything
        answer["text"] = _one_line(error)
    with out:
        json.dump(answer, out)
        out.write("\n")
    return EXPORTED if answer["ok"] else NOT_EXPORTED


def _options(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export weights with Ultralytics.")
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("file")
    parser.add_argument("format")
    return parser.parse_args(words)


def export(path: str, kind: str, device: str) -> str:
    """Return where the export of `path` lies. Raises whatever Ultralytics and the library of that format raise."""
    os.environ.update(_OFFLINE)  # before the import, which reads it
    os.chdir(os.path.dirname(path))  # some formats write into the working folder
    _stay_offline()
    from ultralytics import YOLO

    made = YOLO(path).export(format=kind, device=device)
    if not made or not os.path.exists(str(made)):
        raise RuntimeError(f"Ultralytics told no file of the export to {kind}")
    return os.path.abspath(str(made))


def _stay_offline() -> None:
    """Let every connection to another machine fail at once; sockets of this machine stay."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            _refuse(address)
        connect(self, address)

    for name, stand_in in (("connect", connect_here), ("connect_ex", connect_here)):
        setattr(socket.socket, name, stand_in)
    socket.getaddrinfo = lambda host, *_given, **_named: _refuse(host)


def _refuse(where: Any) -> NoReturn:
    raise NoNetworkError(f"an export uses no network, and this one asked for {where}")


def _one_line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_TEXT_CHARACTERS]
    return text.encode("utf-8", "replace").decode("utf-8")


def _end_with_parent() -> None:
    """An export that nobody waits for must not go on for an hour."""
    while os.read(0, 4096):
        pass
    os._exit(NOT_EXPORTED)


if __name__ == "__main__":
    sys.exit(main())
