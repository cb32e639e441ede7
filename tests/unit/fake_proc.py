"""A folder that looks like /proc, as far as the hang detector reads it."""

from __future__ import annotations

import shutil

from supervisor.attempt_files import Started


def started(**changes):
    """The record of an attempt whose shim is 10 and whose trainer is 11; start times are the pids."""
    known = {"shim_pid": 10, "shim_start_time": 10, "pid": 11, "start_time": 11, "started_at": 1.0}
    return Started(**{**known, "boot_id": "b", "pid1_start_time": 1, **changes})


class FakeProc:
    """Processes that a test adds, changes and removes."""

    def __init__(self, root):
        root.mkdir()
        self._root = root
        self.root = str(root)
        (root / "uptime").write_text("1 1")

    def add(
        self,
        pid,
        *,
        parent,
        name="python",
        state="S",
        ticks=(0, 0),
        ended_ticks=(0, 0),
        io=(),
        wchan="0",
        cmdline="python",
        environ="",
        threads=(),
        files=(),
    ):
        """Make a process, or make it anew. `io`: counters, None: not ours to read."""
        self.remove(pid)
        folder = self._root / str(pid)
        folder.mkdir()
        self._stat(folder, pid, name, state, parent=parent, ticks=(*ticks, *ended_ticks))
        (folder / "wchan").write_text(wchan)
        (folder / "cmdline").write_text(cmdline.replace(" ", "\0") + "\0")
        (folder / "environ").write_text(environ)
        if io is not None:
            counters = {"rchar": 0, "wchar": 0, "read_bytes": 0, "write_bytes": 0, **dict(io)}
            (folder / "io").write_text("".join(f"{name}: {value}\n" for name, value in counters.items()))
        for number, (thread_state, thread_wchan) in {pid: (state, wchan), **dict(threads)}.items():
            thread = folder / "task" / str(number)
            thread.mkdir(parents=True)
            self._stat(thread, number, name, thread_state, parent=parent, ticks=(0, 0, 0, 0))
            (thread / "wchan").write_text(thread_wchan)
        (folder / "fd").mkdir()
        for number, path in enumerate(files):
            (folder / "fd" / str(number)).symlink_to(path)

    def remove(self, pid):
        """Let a process be gone."""
        shutil.rmtree(self._root / str(pid), ignore_errors=True)

    @staticmethod
    def _stat(folder, pid, name, state, *, parent, ticks):
        """See proc_pid_stat(5): fields 3, 4, 14 to 17 and 22 are read."""
        fields = [state, str(parent), *["0"] * 9, *map(str, ticks), *["0"] * 4, str(pid), *["0"] * 20]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
