"""config.example.toml and the code say the same, both ways."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from supervisor import backup_config, config, gpu_config, prune_config, toml_errors, user_rules, xid_rules

EXAMPLE = Path(__file__).parents[1] / "config.example.toml"
NESTED = {"limits": config.Limits, "restart": config.Restarts, "checkpoints": config.Checkpoints}
NESTED |= {"gpu": gpu_config.GpuDefaults}
EXAMPLES_ONLY = {"defaults.python", "defaults.time_limit", "defaults.notify", "channel.ca_file", "rule.remedy"}
EXAMPLES_ONLY |= {"defaults.backup", "backup.ssh_key", "backup.known_hosts", "backup.rclone_config"}
EXAMPLES_ONLY |= {"prune.keep_last", "prune.keep_best", "prune.keep_within", "prune.keep_tag", "prune.archive_after"}
EXAMPLES_ONLY |= {"prune.project.keep_last", "gpu.limit.slowdown_c", "gpu.xid.attempt", "gpu.xid.gpu", "gpu.xid.cause"}


def uncommented() -> str:
    """The example with every key switched on."""
    return re.sub(r"^# (\[\[?[a-z.]+\]\]?|[a-z_.]+ = )", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def keys_of_example() -> set[str]:
    """Every key that the example names, with its table."""
    keys, table = set(), ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(?:# )?\[+([a-z.]+)\]+", line):
            table = match[1]
        elif match := re.match(r"# ([a-z_.]+) = ", line):
            keys.add(f"{table}.{match[1]}")
    return keys


def keys_of_code() -> set[str]:
    """Every key that the structs take."""
    keys = set()
    tables = {"channel": config.Channel, "server": config.Server, "jobs": config.Jobs, "defaults": config.Defaults}
    tables |= {"queue": config.Queue, "hang": config.Hang, "disk": config.Disk, "rule": user_rules.UserRule}
    tables |= {"gpu": gpu_config.Gpu, "backup": backup_config.Backup, "prune": prune_config.Prune}
    assert tables.keys() == set(config.Config.__struct_fields__)
    keys |= {f"gpu.xid.{field}" for field in xid_rules.XidRow.__struct_fields__}
    keys |= {"prune.project.name", "prune.project.keep_last"}  # and the other words of [prune]
    keys |= {"gpu.limit.gpu", "gpu.limit.slowdown_c"}  # and any other threshold
    for table, struct in tables.items():
        for field in struct.__struct_fields__:
            if f"{table}.{field}" in {"gpu.xid", "gpu.limit", "prune.project"}:
                continue  # tables of their own
            inner = NESTED[field].__struct_fields__ if table == "defaults" and field in NESTED else None
            keys |= {f"{table}.{field}.{key}" for key in inner} if inner else {f"{table}.{field}"}
    return keys


def test_both_name_the_same_keys():
    """Each key of the example exists in the code, and each key of the code stands in the example."""
    assert keys_of_example() == keys_of_code()


def test_the_example_shows_the_defaults(monkeypatch, tmp_path):
    """Switched on as it stands, the example changes nothing but what has no default."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    loaded = config.parse(uncommented().encode(), "config.example.toml", mountinfo=tmp_path / "none")
    default = config.Config()
    assert loaded.server == default.server
    assert loaded.jobs == default.jobs
    assert loaded.queue == default.queue
    assert loaded.hang == default.hang
    assert msgspec.structs.replace(loaded.gpu, xid=(), limit=()) == default.gpu
    assert loaded.disk == default.disk
    for field in config.Defaults.__struct_fields__:
        if f"defaults.{field}" not in EXAMPLES_ONLY:
            assert getattr(loaded.defaults, field) == getattr(default.defaults, field), field
    for field in msgspec.structs.fields(config.Channel):
        if not field.required and f"channel.{field.name}" not in EXAMPLES_ONLY:
            assert getattr(loaded.channel[0], field.name) == field.default, field.name
    for field in msgspec.structs.fields(user_rules.UserRule):
        if not field.required and f"rule.{field.name}" not in EXAMPLES_ONLY:
            assert getattr(loaded.rule[0], field.name) == field.default, field.name


def test_the_example_shows_the_defaults_of_targets_and_policy(monkeypatch, tmp_path):
    """As above: each key of [[backup]] and [prune] stands there with its default."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    loaded = config.parse(uncommented().encode(), "config.example.toml", mountinfo=tmp_path / "none")
    assert loaded.prune is not None
    for field in msgspec.structs.fields(prune_config.Prune):
        if f"prune.{field.name}" not in {*EXAMPLES_ONLY, "prune.project"}:
            assert getattr(loaded.prune, field.name) == field.default, field.name
    for field in msgspec.structs.fields(backup_config.Backup):
        if not field.required and f"backup.{field.name}" not in EXAMPLES_ONLY:
            assert getattr(loaded.backup[0], field.name) == field.default, field.name


def test_the_example_as_it_stands_is_the_default(monkeypatch, tmp_path):
    """Copied without a change, the example is a configuration, and the default one."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.parse(EXAMPLE.read_bytes(), "x", mountinfo=tmp_path / "none") == config.Config()


@pytest.mark.parametrize("key", sorted(EXAMPLES_ONLY))
def test_keys_without_a_default_say_so(key):
    """Where the example shows a value that is no default, its line says that there is none."""
    line = next(
        line
        for line in EXAMPLE.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"# {key.rpartition('.')[2]} = ") and (key.count(".") == 1 or "no default" in line)
    )
    assert "no default" in line


def test_every_key_has_a_line_of_explanation():
    """No key stands without a comment that says its kind or unit."""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if re.match(r"# [a-z_.]+ = ", line):
            assert re.search(r"  # (text|path|duration|true or false|name|number|list|table|size|address|\")", line), (
                line
            )


def test_what_is_shown_is_read_back(monkeypatch, tmp_path):
    """`config show` prints a file that means the same."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    shown = config.show_text(config.Config())
    table, source = toml_errors.read(shown.encode(), "shown")
    assert toml_errors.convert(table, config.Config, source) == config.Config()
