"""The three kinds of failure that the code tells apart; anything else is a bug."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with something a person wrote: where it is, what was expected, what stood there."""

    message: str
    key: str = ""
    line: int = 0
    expected: str = ""
    got: str = ""
    hint: str = ""

    def render(self) -> str:
        """One paragraph for a person."""
        place = ", ".join(part for part in (f"line {self.line}" if self.line else "", self.key) if part)
        text = f"{place}: {self.message}" if place else self.message
        if self.expected:
            text += f"; expected {self.expected}"
        if self.got:
            text += f"; got {self.got}"
        return f"{text}\n  fix: {self.hint}" if self.hint else text


class UserError(Exception):
    """A message for a person: it names the file, the key and the fix. Never a traceback."""

    def __init__(self, message: str = "", *, file: str = "", problems: tuple[Problem, ...] = ()) -> None:
        """Either one `message`, or the `problems` found in `file`."""
        self.file = file
        self.problems = problems or (Problem(message),)
        super().__init__(self.render())

    def render(self) -> str:
        """All problems, each with the file's name before it."""
        prefix = f"{self.file}: " if self.file else ""
        return "\n".join(prefix + problem.render() for problem in self.problems)


class RetryableError(Exception):
    """An effect could not be carried out now; try again after `after_s` seconds."""

    def __init__(self, reason: str, after_s: float = 5.0) -> None:
        """Say why, and when another try makes sense."""
        self.after_s = after_s
        super().__init__(reason)


class PermanentError(Exception):
    """An effect can never succeed as asked."""
