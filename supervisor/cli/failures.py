"""How the command line says that something did not work: a text on standard error and an exit code of the contract."""

from __future__ import annotations

from typing import IO, Any

import click

ERROR = 1
USAGE = 2
NO_DAEMON = 3
REFUSED = 4
NO_SUCH_RUN = 5
TRY_LATER = 75
INTERRUPTED = 130


class Failure(click.ClickException):
    """Ends the command with `exit_code` after `message` was shown. Never a traceback."""

    def __init__(self, message: str, exit_code: int = ERROR) -> None:
        """Say what is wrong and what to do."""
        super().__init__(message)
        self.exit_code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message as it is."""
        click.echo(self.message, file=file, err=file is None)


class NoDaemon(Failure):
    """Nobody answers on the socket."""

    def __init__(self, message: str) -> None:
        """Say where it was tried and how a daemon is started."""
        super().__init__(message, NO_DAEMON)
