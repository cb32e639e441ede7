"""The command line. It talks to the daemon over its socket; what it needs is imported when it is needed."""

from __future__ import annotations


def main() -> None:
    """Run `yolo-supervisor` with the arguments of this process, and exit."""
    from supervisor.cli.program import PROGRAM, program

    program(prog_name=PROGRAM)
