"""Imports go one way. Each rule has its reason; the table is that of docs/architecture.md."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "supervisor"
FILES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)

# What the parts of the daemon may import of ours. "core" stands for the package, "core.x" would be one module.
SHARED = {
    "durable",
    "errors",
    "hang_config",
    "attempt_files",
    "curve_files",
    "clock",
    "layout",
    "machine",
    "config",
    "backup_config",
    "prune_config",
    "publish_config",
    "schedule_words",
    "jobspec",
    "job_rules",
    "toml_errors",
    "units",
    "trainers",
    "core",
}
ALLOWED = {
    "core": ({"core", "errors"}, "deciding is pure: it can be replayed, simulated and tested without a machine"),
    "sources": (SHARED | {"sources"}, "sources make events and decide nothing; effects act, and need no source"),
    "effects": (SHARED | {"effects", "drafts"}, "effects act and decide nothing; sources watch, and need no effect"),
    "engines": (SHARED | {"engines"}, "an engine must be replaceable: it knows neither sources nor effects"),
    "trainers": (SHARED, "a trainer's family knows files and words, not how the daemon works"),
    "web": (SHARED | {"web", "journal"}, "the API reads the world and the journal, and reports orders as events"),
    "loop": ({"clock", "core", "journal"}, "the loop decides and records; who watches and who acts is given to it"),
    "journal": ({"core"}, "the record must be readable where nothing else of the daemon runs"),
    "clock": ({"attempt_files", "core"}, "a clock has no opinion"),
    "durable": (set(), "a writer of files knows files"),
    "layout": (set(), "paths are known without anything else"),
    "errors": (set(), "everybody raises them"),
    "state_lock": ({"errors", "layout"}, "who owns the state is known before anything else is opened"),
    "backup_config": ({"errors", "schedule_words", "toml_errors"}, "keys of the configuration"),
    "prune_config": ({"backup_config", "errors", "toml_errors"}, "keys of the configuration"),
    "publish_config": ({"core", "errors", "toml_errors"}, "keys of a job"),
    "schedule_words": ({"errors", "units"}, "schedules are words"),
    "units": ({"errors"}, "sizes and durations are words"),
    "curve_files": ({"attempt_files", "layout", "trainers", "core"}, "reading a curve: files of the run, and words of its trainer"),
    "machine": ({"machine", "attempt_files", "layout", "units", "trainers", "core"}, "readings of the machine and of what a job needs of it: nobody of the daemon is known here"),
    "attempt_files": ({"durable"}, "the format shared with shims that may be weeks older"),
}  # fmt: skip

# The command line may be loaded anywhere and must start quickly: what of the daemon it needs, it imports in functions.
CLI_ENTRY = {"__init__", "program", "failures", "client"}  # loaded for every verb; a verb's own module only for it
CLI_LIGHT = {"cli", "durable", "errors", "units", "toml_errors", "layout", "config", "core", "trainers"}
CLI_LATE = {
    "prune_config",
    "jobspec",
    "job_rules",
    "journal",
    "drafts",
    "daemon",
    "restore_all",
    "state_lock",
    "effects",
    "machine",
    "attempt_files",
    "curve_files",
    "clock",
}

# Libraries that must not come into the daemon, or only where they are used.
FORBIDDEN = {
    "torch": "it lives in the job's interpreter; the daemon must stay small and alive",
    "ultralytics": "it lives in the job's interpreter (and is AGPL-3.0)",
    "torchvision": "it lives in the job's interpreter",
    "numpy": "it would cost 30 MiB",
    "pickle": "the daemon runs no pickle machine, not even with stubs",
}
ONLY_LATE = {"requests": "6.5 MiB that most daemons never need: imported on first use"}


def part(path):
    """The name of the part that a file belongs to: its folder below supervisor/, else its own name."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    """Every import of a file, as (module, late): late ones stand inside a function or under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or _for_types_only(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "supervisor" else [base]
            yield from ((name, id(node) in late) for name in names)


def _for_types_only(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def ours(path):
    """The parts of ours that a file imports, as (part, late)."""
    return {(name.split(".")[1], late) for name, late in imports(path) if name.startswith("supervisor.")} - {
        ("__version__", True),
        ("__version__", False),
    }


def of(name):
    """The files of a part."""
    return [path for path in FILES if part(path) == name]


def relative(path):
    """A short id for a test."""
    return str(path.relative_to(ROOT))


def test_the_parts_are_there():
    """The table names parts that exist, so that a renamed folder does not escape it."""
    for name in (*ALLOWED, "cli", "runner", "shim"):
        assert of(name), name


def test_every_folder_has_a_rule():
    """A new folder below supervisor/ gets a line in the table."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ALLOWED) | {"cli", "runner"}


@pytest.mark.parametrize("path", [path for path in FILES if part(path) in ALLOWED], ids=relative)
def test_imports_go_one_way(path):
    """A part imports only what the table allows it, early or late."""
    allowed, reason = ALLOWED[part(path)]
    wrong = {name for name, _ in ours(path)} - allowed
    assert not wrong, f"{relative(path)} imports {sorted(wrong)}: {reason}"


@pytest.mark.parametrize("path", [path for path in FILES if part(path) in {"shim", "runner"}], ids=relative)
def test_shim_and_runner_stand_alone(path):
    """They run under other interpreters and outlive the daemon: nothing of ours, and (the shim) only the standard library."""
    wrong = {name for name, _ in imports(path) if name.split(".")[0] == "supervisor"}
    assert not wrong, f"{relative(path)} imports {wrong}"
    assert not [name for name, _ in imports(path) if name.startswith("..")], "it reaches out of its folder"
    if part(path) == "shim":
        assert {name.split(".")[0] for name, _ in imports(path)} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", of("cli"), ids=relative)
def test_the_command_line_starts_quickly(path):
    """What every verb loads imports nothing of the daemon's; what one verb needs of journal or daemon comes late."""
    allowed = {"cli", "errors"} if path.stem in CLI_ENTRY else CLI_LIGHT
    early = {name for name, late in ours(path) if not late}
    assert early <= allowed, f"{relative(path)} imports {sorted(early - allowed)} before it is needed"
    late = {name for name, _ in ours(path)}
    assert late <= CLI_LIGHT | CLI_LATE, f"{relative(path)} imports {sorted(late - CLI_LIGHT - CLI_LATE)}"


@pytest.mark.parametrize("path", [path for path in FILES if part(path) != "runner"], ids=relative)
def test_heavy_libraries_stay_out(path):
    """Nothing of the daemon or the command line imports what belongs into the trainings' environment."""
    names = {(name.split(".")[0], late) for name, late in imports(path)}
    for name, reason in FORBIDDEN.items():
        assert name not in {found for found, _ in names}, f"{relative(path)} imports {name}: {reason}"
    for name, reason in ONLY_LATE.items():
        assert (name, False) not in names, f"{relative(path)} imports {name} at its start: {reason}"


@pytest.mark.parametrize("path", of("core"), ids=relative)
def test_the_core_is_pure(path):
    """No clock, no files, no processes, no chance: the core imports msgspec and modules that only compute or name."""
    pure = {"__future__", "msgspec", "collections", "enum", "typing", "hashlib", "math", "pathlib", "re", "datetime",
        "functools", "itertools", "dataclasses", "unicodedata", "string", "statistics", "bisect", "operator", "difflib", "fnmatch", "signal"}  # fmt: skip
    own_data = path.name in {"tables.py", "xids.py"}  # its tables are part of the program: read once, with it
    pure |= {"importlib"} if own_data else set()
    wrong = {name.split(".")[0] for name, _ in imports(path)} - pure - {"supervisor"}
    assert not wrong, f"{relative(path)} imports {sorted(wrong)}"
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    called = {function.attr for function in calls if isinstance(function, ast.Attribute)}
    paths = {"open", "read_text", "read_bytes", "exists", "is_file", "write_text", "unlink", "stat", "today", "utcnow"}
    paths -= {"read_bytes"} if own_data else set()
    assert not called & paths, f"{relative(path)} touches the machine: {sorted(called & paths)}"


def test_a_wrong_import_would_be_seen(tmp_path):
    """The reader of imports sees all forms: plain, from, below functions, and our own package by both spellings."""
    file = tmp_path / "x.py"
    file.write_text(
        "import os.path\nfrom supervisor import journal, loop\nimport supervisor.web.api\n"
        "def f():\n    from supervisor.effects.check import x\n    import torch\n",
        encoding="utf-8",
    )
    assert set(imports(file)) == {
        ("os.path", False),
        ("supervisor.journal", False),
        ("supervisor.loop", False),
        ("supervisor.web.api", False),
        ("supervisor.effects.check", True),
        ("torch", True),
    }
