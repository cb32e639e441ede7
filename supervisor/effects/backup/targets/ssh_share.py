"""One connection for all calls of a target: the first one makes it, by every rule of `ssh.command`, the others use it.

ssh itself closes it a few seconds after its last use, also where the daemon was killed.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from supervisor.effects import short_child
from supervisor.effects.backup.targets.programs import environment
from supervisor.effects.backup.targets.workroom import workroom

IDLE_S = 10  # ControlPersist: between two calls of a transaction files are staged, and longer gaps are rare
#: Of a socket's path: 108 of sun_path, less the NUL and the 17 characters that ssh adds while it makes one.
LONGEST_PATH_BYTES = 90
LEAVE_S = 3.0

_PREFIX = "ys-ssh-"
_SOCKET = "s"


class Share:
    """A folder of ours, with the socket in it through which later calls reach the connection of the first."""

    def __init__(self) -> None:
        """Nothing is made yet."""
        self._held = ExitStack()
        self._path: Path | None = None
        self._is_asked = False
        # without `close` the connection ends by itself; the folder goes with whoever used it
        self._forgotten = weakref.finalize(self, self._held.close)

    def options(self) -> list[str]:
        """Options for ssh, to stand before all others. None where there is no short path for a socket."""
        if not self._is_asked:
            self._is_asked = True
            self._path = self._made()
        if self._path is None:
            return []
        return ["-o", "ControlMaster=auto", "-o", f"ControlPersist={IDLE_S}", "-o", f'ControlPath="{self._path}"']

    def _made(self) -> Path | None:
        for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - the folder in it is only ours
            room = Path(parent, f"{_PREFIX}XXXXXXXX", _SOCKET)
            if len(os.fsencode(room)) > LONGEST_PATH_BYTES or set(parent) & set('%"\\$~'):
                continue
            with suppress(OSError):  # then each call makes a connection of its own
                return self._held.enter_context(workroom(Path(parent), prefix=_PREFIX)).path / _SOCKET
        return None

    def close(self, leaving: Callable[[], Sequence[str]]) -> None:
        """End the connection, if there is one: `leaving` names the ssh that is told so. Later calls make their own."""
        if self._path is not None and self._path.exists():
            with suppress(OSError):  # it then ends by itself
                short_child.run(leaving(), environment(), LEAVE_S)
        self._path = None
        self._forgotten()
