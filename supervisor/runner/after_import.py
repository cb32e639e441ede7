"""Do something right after a module of the job's Python was imported, without importing it ourselves."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Callable, Sequence


class AfterImport(importlib.abc.MetaPathFinder):
    """Lets the import system load some modules as always, and does something with each right after.

    What fails is handed to `complain`; the import itself never notices.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._actions: dict[str, Callable[[ModuleType], None]] = {}

    def when_imported(self, name: str, action: Callable[[ModuleType], None]) -> None:
        """Call `action` with the module when it is imported, or now if it was imported before."""
        self._actions[name] = action
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if name in sys.modules:
            self._act(sys.modules[name])

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find what the path finder finds, with an `exec_module` that acts afterwards."""
        if fullname not in self._actions:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_act(module: ModuleType) -> None:
                load(module)
                self._act(module)

            spec.loader.exec_module = load_and_act  # type: ignore[method-assign]
        return spec

    def _act(self, module: ModuleType) -> None:
        try:
            self._actions[module.__name__](module)
        except Exception as error:  # noqa: BLE001 -- the training goes on without what we wanted to add
            self._complain(f"{module.__name__}: {error!r}")
