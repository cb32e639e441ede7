"""How the command line says that something did not work: a text on standard error and the contract's exit code."""

from __future__ import annotations

from typing import IO, Any, ClassVar

import click

INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Failure(click.ClickException):
    """Ends the command after its message was shown. Never a traceback."""

    exit_code: ClassVar[int] = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message as it is."""
        click.echo(self.message, file=file, err=file is None)


class BadInput(Failure):
    """A wrong file or a wrong value."""

    exit_code: ClassVar[int] = 2


class NoDaemon(Failure):
    """Nobody answers on the socket."""

    exit_code: ClassVar[int] = 3


class Refused(Failure):
    """The daemon does not do this, or not for this user."""

    exit_code: ClassVar[int] = 4


class NoSuchRun(Failure):
    """No run has this name."""

    exit_code: ClassVar[int] = 5


class NoSuchGpu(Failure):
    """No GPU, or more than one, is meant by this name."""

    exit_code: ClassVar[int] = 5


class NoSuchBackup(Failure):
    """No run, or no backup target, has this name."""

    exit_code: ClassVar[int] = 5


class TryLater(Failure):
    """It may work later."""

    exit_code: ClassVar[int] = 75
