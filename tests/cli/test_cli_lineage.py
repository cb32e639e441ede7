"""Verbs that begin where something was trained before: sentences, exit codes, refusals."""

from __future__ import annotations

import json

import pytest

from supervisor.core.checkpoints import Saved
from supervisor.core.job import StartFrom
from supervisor.core.model import Goal, Phase
from supervisor.errors import RetryableError


@pytest.fixture
def saved(daemon):
    """Say which epochs the runs can go back to: what the daemon would find on the disk."""
    asked = []

    def answer(run, epoch):
        asked.append((run.id, epoch))
        return answer.found

    answer.found, answer.asked = Saved(epochs=(1, 2, 3)), asked
    daemon.saved = answer
    return answer


def finished(daemon, name="truck", epoch=10):
    """A run that trained all its epochs."""
    run_id = daemon.launch(name)
    daemon.progress(run_id, epoch, epoch)
    daemon.end(run_id)
    return run_id


def test_rewind_says_what_becomes_of_the_later_epochs(daemon, cli, saved):
    """`rewind` opens a new run, and tells that nothing is lost."""
    finished(daemon)
    done = cli("rewind", "truck", "--epoch", "2")
    assert done.exit_code == 0, done.stderr
    assert "truck@2" in done.stdout
    assert "what was trained after epoch 2 is kept" in done.stdout
    assert daemon.world.named("truck").goal == Goal(kind="rewind", epoch=2)
    assert saved.asked == [("truck@1", 2)]


def test_rewind_of_an_epoch_that_is_not_there(daemon, cli, saved):
    """Exit code 4, the epochs that are there, and what stripped files are good for; nothing is ordered."""
    finished(daemon)
    saved.found = Saved(epochs=(1, 3), stripped=("best.pt", "last.pt"))
    done = cli("rewind", "truck", "--epoch", "2")
    assert done.exit_code == 4
    assert "no verified checkpoint of epoch 2; there are 1, 3" in done.stderr
    assert "best.pt and last.pt can be used as weights only" in done.stderr
    assert daemon.world.named("truck").id == "truck@1"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda daemon: daemon.launch("truck"), "truck is RUNNING; stop it first: `stop truck`"),
        (lambda daemon: daemon.accept("truck", start_after_at=4e9), "truck is QUEUED; stop it first"),
        (lambda daemon: finished(daemon, epoch=2), "nothing is left after epoch 10"),
        (lambda daemon: daemon.end(daemon.launch("truck", train=None, command=("x",))), "a command of its own kind"),
    ],
)
def test_a_rewind_that_makes_no_sense(daemon, cli, saved, prepare, words):
    """Refused with the reason before any file is looked at."""
    prepare(daemon)
    done = cli("rewind", "truck", "--epoch", "10")
    assert done.exit_code == 4
    assert words in done.stderr
    assert not saved.asked


def test_files_that_cannot_be_looked_at_now_are_no_refusal(daemon, cli, saved):
    """A disk that does not answer: exit code 75, try later."""

    def cannot(_run, _epoch):
        raise RetryableError("the disk does not answer")

    daemon.saved = cannot
    finished(daemon)
    done = cli("rewind", "truck", "--epoch", "2")
    assert done.exit_code == 75
    assert "the disk does not answer" in done.stderr
    assert not saved.asked


def test_extend_says_once_that_the_learning_rate_changes(daemon, cli, saved):
    """The curve is not that of a training that was planned so long: said when the order was taken."""
    finished(daemon)
    done = cli("extend", "truck", "--epochs", "15")
    assert done.exit_code == 0, done.stderr
    assert "the schedule of 10 epochs is stretched to 15" in done.stdout
    assert "jumps from 10.9% of lr0 to 34.0%" in done.stdout
    assert done.stderr == ""
    assert "truck@2" in done.stdout
    assert daemon.world.named("truck").goal == Goal(kind="extend", epochs=15)
    assert saved.asked == [("truck@1", None)]


@pytest.mark.parametrize(
    ("epochs_and_found", "words"),
    [
        ((10, Saved(epochs=(3,))), "truck has 10 epochs already"),
        ((15, Saved(stripped=("best.pt",))), "best.pt can be used as weights only"),
        ((15, Saved()), "submit a new training with model = best.pt instead"),
    ],
)
def test_an_extension_that_is_not_possible(daemon, cli, saved, epochs_and_found, words):
    """Too few epochs, or no checkpoint with the optimizer: exit code 4 and what to do instead."""
    finished(daemon)
    epochs, saved.found = epochs_and_found
    done = cli("extend", "truck", "--epochs", epochs)
    assert done.exit_code == 4
    assert words in done.stderr
    assert "learning rate" not in done.stderr
    assert daemon.world.named("truck").id == "truck@1"


def test_only_finished_runs_are_extended(daemon, cli, saved):
    """A running one has its epochs in its job file; a budget of time is no number of epochs."""
    daemon.launch("truck")
    done = cli("extend", "truck", "--epochs", "15")
    assert done.exit_code == 4
    assert "only finished runs are extended" in done.stderr
    daemon.end(daemon.world.named("truck").id)
    daemon.allow(2)
    run_id = daemon.launch("car", train={"epochs": 5, "time": 2.0})
    daemon.end(run_id)
    assert "budget of time" in cli("extend", "car", "--epochs", "15").stderr
    assert not saved.asked


# ---- branch
TRAIN = '[train]\nmodel = "/m.yaml"\ndata = "/d.yaml"\nepochs = 10\n'


@pytest.fixture
def file(tmp_path):
    """A job file of a new run."""
    path = tmp_path / "car.toml"
    path.write_text(f"{TRAIN}batch = 4\n")
    return path


def test_branch_submits_a_copy_that_says_where_it_begins(daemon, cli, saved, spool, file):
    """The user's file stays as it is; what differs from the other run is told."""
    daemon.launch("truck")
    before = file.read_bytes()
    done = cli("branch", "truck", "--at", "2", file)
    assert done.exit_code == 0, done.stderr
    assert daemon.world.named("car").job.start_from == StartFrom(run="truck", epoch=2)
    assert "it goes on from truck after epoch 2; other than there: batch: not given → 4" in done.stdout
    assert file.read_bytes() == before
    assert saved.asked == [("truck@1", 2)]
    assert spool.seen


def test_branch_from_weights(daemon, cli, saved, spool, file):
    """Every key counts then; without --at the newest epoch, or what a stripped file holds."""
    daemon.launch("truck")
    saved.found = Saved(stripped=("best.pt",))
    assert cli("branch", "truck", file).exit_code == 4
    file.write_text(f'{TRAIN}optimizer = "AdamW"\n')
    done = cli("branch", "truck", file, "--from-weights")
    assert done.exit_code == 0, done.stderr
    assert daemon.world.named("car").job.start_from == StartFrom(run="truck", weights=True)
    assert "it starts a new training with the weights of truck" in done.stdout
    assert spool.seen


def test_a_branch_that_a_resume_would_not_obey_is_refused(daemon, cli, saved, spool, file):
    """The list of keys, and the way that is left; nothing runs."""
    daemon.launch("truck")
    file.write_text(f'{TRAIN}optimizer = "AdamW"\nlr0 = 0.5\n')
    done = cli("branch", "truck", "--at", "2", file)
    assert done.exit_code == 2
    assert "train.lr0" in done.stderr
    assert "train.optimizer" in done.stderr
    assert "--from-weights" in done.stderr
    assert daemon.world.named("car") is None
    assert not list(daemon.jobs_folder.glob("*.toml"))
    assert saved.asked
    assert spool.seen


def test_a_branch_under_the_name_of_a_live_run_leaves_its_job_file(daemon, cli, saved, spool, file):
    """Refused before anything is written over; the same branch once more does no harm."""
    daemon.launch("truck")
    assert cli("branch", "truck", "--at", "2", file).exit_code == 0
    [placed] = daemon.jobs_folder.glob("*.toml")
    before = placed.read_bytes()
    done = cli("branch", "truck", "--at", "3", file)
    assert done.exit_code == 4
    assert "car@1 is QUEUED, and a name is of one run at a time" in done.stderr
    assert placed.read_bytes() == before
    assert cli("branch", "truck", "--at", "2", file).exit_code == 0
    assert daemon.world.named("car").id == "car@1"
    assert saved.asked
    assert spool.seen


def test_a_branch_of_a_finished_run_begins_before_its_end(daemon, cli, saved, spool, file):
    """Where only the last epoch is left there is nothing to go on with: exit code 2 and the way that is left."""
    finished(daemon)
    saved.found = Saved(epochs=(10,), stripped=("best.pt", "last.pt"))
    done = cli("branch", "truck", file)
    assert done.exit_code == 2
    assert "all 10 epochs of truck are trained" in done.stderr
    assert "--from-weights" in done.stderr
    assert not list(daemon.jobs_folder.glob("*.toml"))
    saved.found = Saved(epochs=(4, 10))
    assert cli("branch", "truck", file).exit_code == 0
    assert daemon.world.named("car").job.start_from == StartFrom(run="truck")
    assert spool.seen


def test_a_branch_of_an_epoch_that_is_not_there(daemon, cli, saved, file):
    """Refused before anything is submitted."""
    daemon.launch("truck")
    done = cli("branch", "truck", "--at", "7", file)
    assert done.exit_code == 4
    assert "truck has no verified checkpoint of epoch 7; there are 1, 2, 3" in done.stderr
    assert not list(daemon.jobs_folder.glob("*.toml"))
    assert saved.asked


def test_problems_of_a_branched_file_are_told_by_its_own_lines(daemon, cli, saved, file):
    """The line that is put before it does not count; a second start_from is refused."""
    daemon.launch("truck")
    file.write_text(f"nonsense = 1\n{TRAIN}")
    done = cli("branch", "truck", "--at", "2", file)
    assert done.exit_code == 2
    assert "line 1" in done.stderr
    file.write_text(f'start_from = {{ run = "x" }}\n{TRAIN}')
    assert "says start_from itself" in cli("branch", "truck", "--at", "2", file).stderr
    assert cli("branch", "truck", "--at", "2", file.with_name("none.toml")).exit_code == 2
    assert saved.asked


def test_show_tells_the_lineage(daemon, cli, saved, spool, file):
    """Where a run comes from and who began from it; a run that simply began has nothing to tell."""
    daemon.launch("truck")
    assert "lineage" not in cli("show", "truck").stdout
    cli("branch", "truck", "--at", "2", file)
    assert "car@1 branched from truck after epoch 2" in cli("show", "car").stdout
    assert "other than there: batch: not given → 4" in cli("show", "car").stdout
    assert "car@1 begins here after epoch 2" in cli("show", "truck").stdout
    view = json.loads(cli("show", "car", "--json").stdout)
    assert view["lineage"]["origin"]["epoch"] == 2
    assert daemon.world.named("truck").phase is Phase.RUNNING
    assert saved.asked
    assert spool.seen
