"""`checkpoints NAME`: what lies where, in which state, and what the next start would take; also without a daemon."""

from __future__ import annotations

import json

import pytest

from supervisor import layout
from supervisor.cli import screen
from supervisor.core.ledger import Line
from supervisor.effects import ledger
from tests.torch_files import checkpoint
from tests.web.fake_daemon import job


@pytest.fixture
def run_dir(daemon):
    """A run with two copies in the ledger and a torn last.pt."""
    daemon.accept("truck")
    found = layout.run_directory(daemon.runs_dir, "default", "truck")
    found.weights.mkdir(parents=True)
    last = found.weights / "last.pt"
    for epoch in (2, 3):
        last.write_bytes(checkpoint(epoch, map50_95=0.1 * epoch))
        ledger.enter(found, last, "truck@1", 1, job("truck"), 1_800_000_000.0 + epoch)
    last.write_bytes(checkpoint(5)[:-30])
    return found


def test_the_table_names_every_file_and_the_next_start(cli, run_dir):
    """Copies and the trainer's file with state, epoch, metric and hash; the one that a start would take is marked."""
    text = cli("checkpoints", "truck").stdout
    assert "truck@1  2 verified copies" in text
    lines = {line[2:].split()[0]: line for line in text.splitlines() if ".pt" in line}
    first, second = lines["good/epoch3-attempt1.pt"], lines["good/epoch4-attempt1.pt"]
    assert second.startswith("*")
    assert first.startswith(" ")
    assert second.split()[2:5] == ["resumable", "4/10", "0.300"]
    entry = ledger.read(run_dir).entries[-1]
    assert f" {entry.sha256[:12]} " in second
    assert "torn" in lines["train/weights/last.pt"]
    assert "the next start goes on from good/epoch4-attempt1.pt, after epoch 4" in text


ALWAYS = ["FILE", "STATE", "EPOCH", "MAP50-95", "SIZE"]


@pytest.mark.parametrize(
    ("columns", "more"),
    [
        (140, ["SHA256", "ATTEMPT", "LINE", "NOTE"]),
        (100, ["ATTEMPT", "LINE", "NOTE"]),
        (80, ["LINE", "NOTE"]),
        (62, []),
    ],
)
def test_on_a_narrow_terminal_no_number_is_cut(cli, run_dir, monkeypatch, columns, more):
    """Hash, attempt, line and note go first, then the beginning of names; a note without room comes below."""
    monkeypatch.setattr(screen, "on_terminal", lambda: True)
    monkeypatch.setattr(screen, "colourful", lambda: False)
    monkeypatch.setattr(screen, "width", lambda: columns)
    lines = cli("checkpoints", "truck").stdout.splitlines()
    header = next(line for line in lines if "EPOCH" in line)
    assert header.split() == ALWAYS + more
    [row] = [line for line in lines if line.startswith("*")]
    assert row.split()[2:5] == ["resumable", "4/10", "0.300"]
    assert "…" not in row.partition("resumable")[2]
    assert max(map(len, lines[1:4])) <= columns
    reason = json.loads(cli("checkpoints", "truck", "--json").stdout)["checkpoints"][-1]["reason"]
    assert any(line.endswith(reason) for line in lines)


def test_a_pipe_gets_whole_notes(cli, run_dir):
    """No column is left out and nothing is cut where no terminal is; the epoch is not told twice."""
    last = run_dir.weights / "last.pt"
    reason = json.loads(cli("checkpoints", "truck", "--json").stdout)["checkpoints"][-1]["reason"]
    assert any(line.endswith(reason) for line in cli("checkpoints", "truck").stdout.splitlines())
    last.write_bytes(checkpoint(5))
    text = cli("checkpoints", "truck").stdout
    assert "6/10" in text
    assert "holds" not in text


def test_json_has_everything(cli, run_dir):
    """For programs: absolute paths, whole hashes, and null for what is not known."""
    view = json.loads(cli("checkpoints", "truck", "--json").stdout)
    assert view["kept"] == {"count": 2, "bytes": sum(entry.size_bytes for entry in ledger.read(run_dir).entries)}
    assert (view["next_start"]["kind"], view["next_start"]["epoch"]) == ("resume", 4)
    rows = {row["file"]: row for row in view["checkpoints"]}
    assert rows["good/epoch4-attempt1.pt"]["next"] is True
    assert len(rows["good/epoch4-attempt1.pt"]["sha256"]) == 64
    assert rows["train/weights/last.pt"]["path"] == str(run_dir.weights / "last.pt")
    assert rows["train/weights/last.pt"]["epoch"] is None
    assert rows["train/weights/last.pt"]["sha256"] is None


def test_a_run_that_was_rewound_shows_its_lines(cli, run_dir):
    """What lies beyond the rewind is listed, is said to be beyond, and is not what the next start takes."""
    ledger.open_line(run_dir, Line(number=2, parent=1, from_epoch=3, run="truck@1", reason="rewind to epoch 3"))
    text = cli("checkpoints", "truck").stdout
    assert "line 2 left line 1 after epoch 3: rewind to epoch 3" in text
    view = json.loads(cli("checkpoints", "truck", "--json").stdout)
    rows = {row["file"]: row for row in view["checkpoints"]}
    assert (rows["good/epoch4-attempt1.pt"]["usable"], rows["good/epoch3-attempt1.pt"]["next"]) == (False, True)


def test_all_runs_without_a_name(cli, daemon, run_dir):
    """Without a name each run is shown; one without a checkpoint says so."""
    daemon.accept("empty")
    text = cli("checkpoints").stdout
    assert "truck@1  2 verified copies" in text
    assert "empty@1  no verified copies" in text
    assert "the next start begins from the beginning" in text
    assert len(json.loads(cli("checkpoints", "--json").stdout)["runs"]) == 2


def test_without_a_daemon_the_files_are_read_all_the_same(daemon, run_dir, cli, tmp_path):
    """The journal says which runs there are, the folder what they have."""
    online = json.loads(cli("checkpoints", "truck", "--json").stdout)
    config = daemon.write_config()
    daemon.api.stop()
    try:
        from click.testing import CliRunner

        from supervisor.cli.program import program

        words = ["--config", str(config), "checkpoints", "truck", "--json"]
        done = CliRunner().invoke(program, words, catch_exceptions=False)
    finally:
        daemon.make()
    offline = json.loads(done.stdout)
    assert "not running" in done.stderr
    assert offline["checkpoints"] == online["checkpoints"]


def test_an_unknown_run(cli):
    """A name that no run has: exit code 5."""
    assert cli("checkpoints", "nobody").exit_code == 5
