"""A dead server comes back on a new one: journal, runs, job files, and what the daemon must know of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading

import msgspec
import pytest

from supervisor import backup_config, restore_all
from supervisor.config import Config, Jobs, Server
from supervisor.core import events
from supervisor.core.model import FileNote, Phase, Run, World
from supervisor.effects.backup import fetched, ownership, whole_run
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import TargetError
from supervisor.errors import UserError
from supervisor.journal import Entry, Journal
from tests.backup_room import SERVER
from tests.unit.test_backup_fetched import flip, stored
from tests.unit.test_backup_restore import RestoreRoom

SOURCE = b'name = "truck"\n# with its comments\n'
REVISION = hashlib.sha256(SOURCE).hexdigest()


class Site(RestoreRoom):
    """A server with one live and one ended run in its journal, backed up; and an empty new one."""

    def __init__(self, tmp_path):
        super().__init__(tmp_path)
        self.old_jobs, self.new = tmp_path / "old-jobs", tmp_path / "new"
        self.file = str(self.old_jobs / "my truck.toml")
        self.remember()
        self.back_up_state()
        server = Server(name=SERVER, state_dir=self.new / "state", runs_dir=self.new / "runs", socket=self.new / "s")
        self.config = Config(server=server, jobs=Jobs(folder=self.new / "jobs"))
        (self.new / "state").mkdir(parents=True)
        self.said = []

    def remember(self):
        """Let the journal have the runs."""
        job = msgspec.structs.replace(self.job, file=self.file, revision=REVISION, python="/nowhere/python")
        facts = {"created_at": 1.0, "phase_since": 1.0}
        live = Run(id="truck@1", job=job, phase=Phase.RUNNING, attempts=1, **facts)
        ended = Run(id="car@1", job=msgspec.structs.replace(job, name="car", file=""), phase=Phase.SUCCEEDED, **facts)
        world = World(
            live={live.id: live},
            ended={ended.id: ended},
            latest={"truck": live.id, "car": ended.id},
            files={self.file: FileNote(REVISION, live.id)},
            next_token=5,
        )
        seen = events.JobFileSeen(
            at=1.0, origin="spool", path=self.file, data=SOURCE, revision=REVISION, owner=os.getuid()
        )
        journal = Journal.open(self.journal)
        journal.commit([Entry(seen, 1.0, World(), world, ())])
        journal.close()

    def plan(self, server=SERVER):
        """What would be done."""
        return restore_all.make_plan(self.config, self.target, server)

    def restore(self, **options):
        """Do it; what came of it."""
        return restore_all.carry_out(self.config, self.plan(**options), self.said.append)

    @property
    def new_run(self):
        """The run's folder on the new server."""
        return self.new / "runs/default/truck"

    def told(self):
        """restored.json."""
        return json.loads((self.new / "state/restored.json").read_text())

    def world(self):
        """What the restored journal says."""
        journal = Journal.open(self.new / "state/journal.sqlite", read_only=True)
        try:
            return journal.load()
        finally:
            journal.close()


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_everything_comes_back(site):
    """Journal, run directory with its ledger, and the job file under its old name."""
    summary = site.restore()
    assert not summary.wrong
    assert set(site.world().live) == {"truck@1"}
    assert set(site.world().ended) == {"car@1"}
    assert (site.new_run / "good/epoch3-attempt1.pt").read_bytes() == (
        site.run_dir / "good/epoch3-attempt1.pt"
    ).read_bytes()
    assert (site.new / "jobs/my truck.toml").read_bytes() == SOURCE
    assert summary.live == ["truck"]
    assert not (site.new / "runs/.fetching/nas/restore-all").exists()
    assert not (site.new / "state/.restoring").exists()


def test_the_restored_run_resumes(site):
    """A preparation on the new server goes on from the epoch of the backup."""
    site.restore()
    site.runs_dir = site.new / "runs"
    event = site.prepare()
    assert (event.start, event.from_epoch) == ("resume", 3)


def test_the_daemon_is_told_what_the_folders_know(site):
    """The highest token and attempt of folders and manifests: the journal may be older."""
    site.write("attempts/4/log", b"")
    site.write("token", json.dumps({"token": 9, "run": "truck@1", "attempt": 4, "host": "h", "boot_id": "b"}).encode())
    site.back_up(token=9)
    site.restore()
    assert site.told() == {"target": "nas", "token": 9, "attempts": {"truck@1": 4}, "moved": True, "version": 1}


def test_the_same_machine_is_known(site, monkeypatch):
    """Then its GPUs are the same, too."""
    monkeypatch.setattr(restore_all.socket, "gethostname", lambda: "gpu1")
    site.restore()
    assert site.told()["moved"] is False


def test_job_files_are_known_at_their_new_places(site):
    """As others they would be other jobs of the same names, and refused."""
    site.restore()
    world, path = site.world(), str(site.new / "jobs/my truck.toml")
    assert world.files == {path: FileNote(REVISION, "truck@1")}
    assert world.live["truck@1"].job.file == path


def test_a_job_file_of_that_name_that_is_there_stays(site):
    """And a person is told."""
    (site.new / "jobs").mkdir()
    (site.new / "jobs/my truck.toml").write_text("another\n")
    summary = site.restore()
    assert (site.new / "jobs/my truck.toml").read_text() == "another\n"
    assert any("another one has its name" in note for note in summary.notes)


def test_what_a_run_needs_and_is_not_here_is_told(site):
    """Before the daemon finds it out."""
    assert "truck needs what is not here: /nowhere/python" in site.restore().notes


def test_a_server_that_has_runs_is_not_restored(site):
    """Nothing of its journal may be lost; the way out is told."""
    shutil.copy(site.journal, site.new / "state/journal.sqlite")
    with pytest.raises(UserError, match="has 2 runs already") as told:
        site.plan()
    assert "backup restore NAME" in str(told.value)


@pytest.mark.parametrize("damaged", [False, True])
def test_an_empty_or_damaged_journal_is_moved_aside(site, damaged):
    """A daemon that was started too early, or a disk that went bad, is no hindrance."""
    path = site.new / "state/journal.sqlite"
    Journal.open(path).close()
    if damaged:
        path.write_bytes(b"rubbish" * 1000)
    before = path.read_bytes()
    summary = site.restore()
    assert (site.new / "state/journal.before-restore.sqlite").read_bytes() == before
    assert any("journal that was here" in note for note in summary.notes)
    assert set(site.world().live) == {"truck@1"}


def test_a_folder_that_knows_more_than_the_backup_is_left_alone(site):
    """Its token is higher."""
    site.new_run.mkdir(parents=True)
    (site.new_run / "token").write_text('{"token": 7, "host": "x"}')
    [run] = site.plan().runs
    assert (run.how, run.files) == ("skip", 0)
    summary = site.restore()
    assert "token 7" in summary.skipped["default/truck"]
    assert [path.name for path in site.new_run.iterdir()] == ["token"]
    assert site.told()["token"] == 7


def test_a_folder_of_nobody_is_left_alone(site):
    """Files without a token could be anybody's."""
    site.new_run.mkdir(parents=True)
    (site.new_run / "precious").touch()
    assert "nobody knows whose" in site.restore().skipped["default/truck"]


def test_an_interrupted_restore_is_made_again_and_fetches_only_the_rest(site, monkeypatch):
    """What is in place stays; the journal comes last, so that nothing looks finished before it is."""
    monkeypatch.setattr(whole_run, "PART_BYTES", 3000)
    real, calls = whole_run._place, []

    def place(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(whole_run, "_place", place)
    with pytest.raises(KeyboardInterrupt):
        site.restore()
    assert not (site.new / "state/journal.sqlite").exists()
    assert (site.new_run / "token").exists(), "whose it is comes first"
    [run] = site.plan().runs
    assert run.how == "merge"
    assert 0 < run.files < len(site.manifests()[0].files)
    site.restore()
    assert not whole_run.missing(site.manifests()[0], site.new_run)


def test_a_damaged_file_costs_itself(site):
    """The rest comes back, and it is told which is lacking."""
    flip(stored(site, "train/labels.jpg")[1])
    summary = site.restore()
    assert "other bytes" in summary.wrong["default/truck/train/labels.jpg"]
    assert (site.new_run / "train/args.yaml").exists()


def test_a_damaged_journal_costs_a_state_snapshot(site):
    """The one before it is taken."""
    site.saved(4)
    site.back_up_state()
    names = {one.snapshot: one for one in site.manifests("state")}
    assert len(names) >= 1
    newest = site.manifests("state")[0]
    flip(site.target.root / fetched.place("state", newest.stored("journal.sqlite3")), 5000)
    if len(names) > 1:
        site.restore()
        assert set(site.world().live) == {"truck@1"}
    else:
        with pytest.raises(UserError, match="no journal"):
            site.restore()
        assert not (site.new / "state/journal.sqlite").exists()


def test_a_ledger_is_rebuilt_from_the_manifest(site):
    """Also where its record did not come back."""
    stored(site, "good/ledger.json")[1].unlink()
    site.restore()
    record = json.loads((site.new_run / "good/ledger.json").read_bytes())
    assert {one["epoch"] for one in record["entries"]} == {2, 3}
    assert {one["run"] for one in record["entries"]} == {"truck@1"}


def test_the_new_server_owns_what_the_old_one_backed_up(site):
    """Its next backup goes to the same folder, under its name; the old one, started again, finds it another's."""
    place = ownership.claim(site.target, site.state_dir, SERVER, 5.0)
    site.restore()
    assert ownership.claim(site.target, site.new / "state", SERVER, 6.0) == place
    with pytest.raises(TargetError) as refused:
        ownership.claim(site.target, site.state_dir, SERVER, 7.0)
    assert refused.value.cause == "foreign"


def test_other_targets_of_the_old_server_are_taken_over_when_they_are_used(site, tmp_path):
    """Only one is restored from; the old server's folders elsewhere are its successor's all the same."""
    (tmp_path / "other").mkdir()
    settings = backup_config.Backup(name="other", to=str(tmp_path / "other"))
    elsewhere = open_target(settings, SERVER, tmp_path / "anywhere", stop=threading.Event())
    place = ownership.claim(elsewhere, site.state_dir, SERVER, 5.0)
    site.restore()
    assert ownership.claim(elsewhere, site.new / "state", SERVER, 6.0) == place
    with pytest.raises(TargetError):
        ownership.claim(elsewhere, site.state_dir, SERVER, 7.0)
    with pytest.raises(TargetError):  # and nobody else's
        ownership.claim(elsewhere, tmp_path / "third", SERVER, 8.0)


def test_a_folder_from_before_folders_had_names_keeps_the_one_it_was_known_by(site):
    """What the journal knows of it must not look like another folder's."""
    old = ownership.Owner(id=ownership.own_id(site.state_dir), server=SERVER, since=12.5)
    site.target.put(ownership.OWNER, msgspec.json.encode(old))
    place = ownership.claim(site.target, site.state_dir, SERVER, 13.0)
    assert place == f"{old.id[:8]}-12.500"
    site.restore()
    assert ownership.claim(site.target, site.new / "state", SERVER, 14.0) == place


def test_without_a_journal_there_is_no_server_to_restore(site):
    """What is there is said, and how single runs come back."""
    shutil.rmtree(site.target.root / "state")
    with pytest.raises(UserError, match="has no journal of server gpu1: it holds only runs: default/truck"):
        site.plan()


def test_nothing_begins_that_does_not_fit(site, monkeypatch):
    """The room is looked at before the first byte."""
    plan = site.plan()
    monkeypatch.setattr(fetched, "free_bytes", lambda _folder: 1000)
    with pytest.raises(fetched.NoRoomError):
        restore_all.carry_out(site.config, plan, site.said.append)
    assert not (site.new / "runs/default").exists()


# ---- one run
def test_one_run_comes_into_a_new_folder(site):
    """All files of its newest backup, whoever uses the run meanwhile."""
    to = site.new / "truck"
    manifest, brought = whole_run.restore_one(site.target, "truck", to, site.said.append)
    assert (brought.files, brought.wrong) == (len(manifest.files), {})
    assert {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()} == {
        file.path for file in manifest.files
    }
    assert "epoch 3" in site.said[0]


@pytest.mark.parametrize("name", ["car", "default/car", "ruck"])
def test_a_run_that_is_not_there_is_said_not_to_be(site, name):
    """With those that are."""
    with pytest.raises(UserError, match="it holds default/truck"):
        whole_run.restore_one(site.target, name, site.new / "x", site.said.append)


def test_a_name_of_two_projects_is_asked_back(site):
    """PROJECT/NAME tells them apart."""
    body = site.manifests()[0]
    snapshot = site.target.root / "runs/other/truck" / body.snapshot
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(body, project="other")))
    with pytest.raises(UserError, match="give PROJECT/NAME"):
        whole_run.restore_one(site.target, "truck", site.new / "x", site.said.append)
    assert whole_run.restore_one(site.target, "default/truck", site.new / "x", site.said.append)


def test_a_folder_with_files_is_refused(site):
    """Nothing is mixed."""
    (site.new / "state/file").touch()
    with pytest.raises(UserError, match="is there already"):
        whole_run.restore_one(site.target, "truck", site.new / "state", site.said.append)
    assert [path.name for path in (site.new / "state").iterdir()] == ["file"]
