"""The verb `backup restore`: what it asks, what it refuses, and its exit codes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from supervisor.cli.client import Target
from supervisor.cli.restore import restore_verb
from supervisor.errors import UserError
from supervisor.state_lock import state_lock
from tests.backup_room import SERVER
from tests.unit.test_backup_fetched import flip, stored
from tests.unit.test_restore_all import Site


@pytest.fixture
def site(tmp_path):
    """A backup of a server, and the configuration of a new one."""
    site = Site(tmp_path)
    site.toml = tmp_path / "config.toml"
    site.toml.write_text(
        f'[server]\nname = "{SERVER}"\nstate_dir = "{site.new}/state"\nruns_dir = "{site.new}/runs"\n'
        f'socket = "{site.new}/s"\n[jobs]\nfolder = "{site.new}/jobs"\n'
        f'[[backup]]\nname = "nas"\nto = "{site.settings.to}"\n'
    )
    return site


def call(site, *words, stdin=None):
    """Call the verb."""
    chosen = Target(config=str(site.toml))
    return CliRunner().invoke(restore_verb, [*words, "--from", "nas"], obj=chosen, input=stdin, catch_exceptions=False)


def test_a_server_comes_back(site):
    """A plan first, progress, a summary, and what to do next."""
    result = call(site, "--all", "--yes")
    assert result.exit_code == 0, result.output
    assert "default/truck" in result.output
    assert "1 runs go on when the daemon starts: truck" in result.output
    assert site.world().live


def test_programs_get_json(site):
    """Plan and result in one object."""
    result = call(site, "--all", "--yes", "--json")
    view = json.loads(result.stdout)
    assert view["version"] == 1
    assert view["plan"]["runs"][0]["epoch"] == 3
    assert view["restored"]["live"] == ["truck"]


def test_without_anybody_to_ask_nothing_is_done(site):
    """--yes says that it is meant."""
    result = call(site, "--all")
    assert result.exit_code == 4
    assert "--yes" in result.output
    assert not (site.new / "state/journal.sqlite").exists()


def test_a_running_daemon_is_a_refusal(site):
    """Two must not write one state."""
    with state_lock(site.new / "state"):
        result = call(site, "--all", "--yes")
    assert result.exit_code == 4
    assert "stop the daemon first" in result.output


def test_a_state_with_runs_is_a_refusal(site):
    """A second time the journal is in place."""
    assert call(site, "--all", "--yes").exit_code == 0
    result = call(site, "--all", "--yes")
    assert result.exit_code == 4
    assert "has 2 runs already" in result.output


def test_one_run_comes_back_while_a_daemon_runs(site):
    """Into a new folder; exit code 1 where something is damaged."""
    with state_lock(site.new / "state"):
        result = call(site, "truck", "--to", str(site.new / "one"))
    assert result.exit_code == 0, result.output
    assert (site.new / "one/good/epoch3-attempt1.pt").exists()
    flip(stored(site, "train/labels.jpg")[1])
    result = call(site, "truck", "--to", str(site.new / "two"), "--json")
    assert result.exit_code == 1
    assert set(json.loads(result.stdout)["wrong"]) == {"train/labels.jpg"}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["car", "--to", "/tmp/never-made"], 5, "has no backup of a run car"),
        (["--all", "truck"], 2, "either NAME or --all"),
        ([], 2, "either NAME or --all"),
        (["truck"], 2, "--to DIR"),
        (["--all", "--to", "/tmp/never-made"], 2, "--to is for one run"),
        (["truck", "--to", "/tmp/never-made", "--from", "attic"], 2, "no backup target"),
    ],
)
def test_wrong_words_are_explained(site, words, code, text):
    """With the contract's exit codes."""
    chosen = Target(config=str(site.toml))
    words = words if "--from" in words else [*words, "--from", "nas"]
    result = CliRunner().invoke(restore_verb, words, obj=chosen)
    assert (result.exit_code, text in result.output) == (code, True), result.output


def test_a_target_that_is_not_there_is_told(site):
    """A disk that is not mounted, say."""
    site.toml.write_text(site.toml.read_text().replace(site.settings.to, f"{site.settings.to}-gone"))
    result = call(site, "truck", "--to", str(site.new / "one"))
    assert result.exit_code == 75
    assert "backup target nas is not there: no folder, or not mounted" in result.output
    assert f"fix: mount it, or make the folder {site.settings.to}-gone" in result.output


def test_a_server_that_is_not_there_is_answered_with_those_that_are(site):
    """So that nobody has to guess what the old one was called."""
    with pytest.raises(UserError) as refused:
        call(site, "--all", "--yes", "--server", "gpu-seven")
    assert "no journal of server gpu-seven" in str(refused.value)
    assert f"it holds the server {SERVER}: choose with --server NAME" in str(refused.value)


def test_another_server_s_name_finds_its_backups(site):
    """The new server may have another name."""
    site.toml.write_text(site.toml.read_text().replace(f'name = "{SERVER}"', 'name = "gpu2"'))
    with pytest.raises(UserError, match="--server NAME"):
        call(site, "--all", "--yes")
    assert call(site, "--all", "--yes", "--server", SERVER).exit_code == 0
