"""Causes with plans of a test's own, so that no test of the mechanics depends on the plans of the real table."""

from __future__ import annotations

from typing import Any

from supervisor.core.diagnosis.diagnose import Diagnosis
from supervisor.core.diagnosis.evidence import Evidence, Sign
from supervisor.core.diagnosis.tables import CAUSES, Cause

NAME = "of-this-test"


def cause(*plan: str, name: str = NAME, **fields: Any) -> Cause:
    """A cause with that plan."""
    return Cause(name=name, title=f"title of {name}", means="means", fix="mend it", plan=plan, **fields)


def found(*plan: str, name: str = NAME, mark: str = "", first: tuple[str, ...] = (), **fields: Any) -> Diagnosis:
    """A diagnosis of a cause with that plan."""
    return Diagnosis(cause=cause(*plan, name=name, **fields), seen="a line", mark=mark, first=first, place="epoch 1")


def known(monkeypatch: Any, *plan: str, name: str = NAME, **fields: Any) -> str:
    """Let the table of causes know a cause with that plan, for one test; its name."""
    monkeypatch.setitem(CAUSES, name, cause(*plan, name=name, **fields))
    return name


def sign(of: str = NAME, line: str = "a line", **fields: Any) -> Sign:
    """A line of a log that some rule took for that cause."""
    return Sign(**{"rule": "a-rule", "cause": of, "line": line, **fields})


def signs(*names: str, **fields: Any) -> Evidence:
    """What is seen when the log shows these causes, in this order."""
    return Evidence(signs=tuple(sign(name, line=f"line of {name}") for name in names), **fields)
