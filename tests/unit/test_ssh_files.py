"""What ssh needs here is looked at first: which file, what is wrong with it, and what mends it."""

from __future__ import annotations

import os

import pytest

from supervisor.backup_config import Backup
from supervisor.effects.backup.targets import ssh_files
from supervisor.effects.backup.targets.base import TargetError


@pytest.fixture
def settings(tmp_path):
    """A key and a pinned host."""
    key, known = tmp_path / "key", tmp_path / "known_hosts"
    key.write_text("PRIVATE")
    key.chmod(0o600)
    known.write_text("nas ssh-ed25519 AAAA\n")
    return Backup(name="nas", to="backup@nas:/", ssh_key=key, known_hosts=known)


def refused(settings):
    """The cause and the text."""
    with pytest.raises(TargetError) as error:
        ssh_files.demand(settings)
    return error.value.cause, str(error.value)


def test_good_files_are_let_pass(settings):
    """Also where none is named."""
    ssh_files.demand(settings)
    ssh_files.demand(Backup(name="nas", to="backup@nas:/"))


def test_a_key_that_is_not_there(settings):
    """Its path, and the command that makes one."""
    settings.ssh_key.unlink()
    cause, text = refused(settings)
    assert cause == "auth"
    assert f"ssh_key {settings.ssh_key} is not there" in text
    assert f"ssh-keygen -t ed25519 -N '' -f {settings.ssh_key}" in text


def test_a_key_that_others_may_read(settings):
    """Its mode, and the command that mends it."""
    settings.ssh_key.chmod(0o644)
    cause, text = refused(settings)
    assert (cause, "has mode 0644" in text, f"chmod 600 {settings.ssh_key}" in text) == ("auth", True, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_key_of_somebody_else(settings):
    """Who may not read it."""
    settings.ssh_key.chmod(0o000)
    assert "may not be read by uid" in refused(settings)[1]


@pytest.mark.parametrize("spoil", [os.unlink, lambda path: os.truncate(path, 0)])
def test_no_pinned_host(settings, spoil):
    """Nothing is accepted instead."""
    spoil(settings.known_hosts)
    cause, text = refused(settings)
    assert (cause, str(settings.known_hosts) in text) == ("host-unknown", True)


def test_a_folder_is_no_key(settings, tmp_path):
    """Said as such."""
    folder = Backup(name="nas", to="backup@nas:/", ssh_key=tmp_path)
    assert "is no plain file" in refused(folder)[1]
