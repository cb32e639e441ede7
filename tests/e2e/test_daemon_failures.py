"""A training dies: it goes on from its newest good checkpoint, waits for a person, or is given up, with the reason."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from daemon_harness import until

pytestmark = pytest.mark.e2e


def test_a_killed_training_goes_on_behind_its_last_saved_epoch(server):
    """SIGKILL in epoch 3: attempt 2 starts with epoch 3 at once, and every epoch is there once."""
    server.train("truck", "--epoch-s 0.5 --signal-after KILL@3.2 --fault-once", epochs=6)
    done = server.wait("truck", "SUCCEEDED")
    assert done["attempt"] == 2
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5, 6]
    [resumed] = server.attempt("truck", 2).beats("resumed")
    assert resumed["from_epoch"] == 1
    [confirmed] = [row for row in server.history("truck@1", "StartConfirmed") if row.body["attempt"] == 2]
    assert confirmed.body["from_epoch"] == 2
    died = next(row for row in server.history("truck@1", "Examined") if row.body["attempt"] == 1)
    assert "SIGKILL" in died.reason
    assert "tried again at once" in died.reason
    assert done["failures"] == 0


def test_a_command_job_is_resumed_with_its_own_resume_command(server):
    """The same for a trainer that we do not know: {checkpoint} is the newest file that its job names."""
    server.toy("lorry", "--signal-after KILL@3.2 --fault-once --epoch-s 0.3", epochs=5)
    server.wait("lorry", "SUCCEEDED")
    [resumed] = server.attempt("lorry", 2).beats("resumed")
    assert resumed["from_epoch"] == 1
    assert resumed["checkpoint"] == str(server.run_dir("lorry") / "train" / "weights" / "last.pt")
    assert server.epochs_in_table("lorry") == [1, 2, 3, 4, 5]


def test_a_torn_last_checkpoint_is_replaced_by_the_best_one_and_kept(server):
    """Killed while writing last.pt of epoch 3: best.pt (epoch 2) takes its place, the torn file lies in aside."""
    server.train("truck", "--torn-checkpoint 3 --fault-once", epochs=5)
    server.wait("truck", "SUCCEEDED")
    second = server.attempt("truck", 2)
    assert second.beats("resumed")[0]["from_epoch"] == 1
    aside = second.directory / "aside"
    assert (aside / "last.pt").stat().st_size > 0
    assert (aside / "results.csv").read_text().splitlines()[-1].startswith("3,")
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5]
    [prepared] = [row for row in server.history("truck@1", "Prepared") if row.body["attempt"] == 2]
    notes = " ".join(prepared.body["notes"])
    assert "last.pt is torn" in notes
    assert "best.pt took the place of last.pt" in notes
    assert "1 rows after epoch 2 were cut" in notes


def kill_and_damage(server, name, *files, epoch=3, keep=None):
    """While no daemon looks: kill the training behind `epoch` and cut these checkpoints and all copies in two."""
    server.wait_saved(name, epoch)
    server.end(signal.SIGKILL)
    attempt = server.attempt(name)
    weights = server.run_dir(name) / "train" / "weights"
    if keep:
        (weights / keep).write_bytes((weights / "last.pt").read_bytes())
    os.kill(attempt.pid, signal.SIGKILL)
    attempt.json("exit.json")
    for path in (*(weights / file for file in files), *(server.run_dir(name) / "good").glob("*.pt")):
        path.write_bytes(path.read_bytes()[:1000])
    server.start()


def test_the_newest_numbered_checkpoint_is_taken_when_last_and_best_are_torn(server):
    """save_period's epochN.pt is a checkpoint as good as any."""
    server.train("truck", "--epoch-s 0.4", epochs=8)
    kill_and_damage(server, "truck", "last.pt", "best.pt", keep="epoch2.pt")
    server.wait("truck", "SUCCEEDED")
    second = server.attempt("truck", 2)
    assert second.beats("resumed")[0]["from_epoch"] >= 2
    assert (second.directory / "aside" / "last.pt").stat().st_size == 1000
    assert server.epochs_in_table("truck") == list(range(1, 9))


def test_a_run_whose_checkpoints_are_all_torn_is_held_and_not_begun_anew(server):
    """Epochs were saved: a start from scratch would lose them, so a person is asked. Nothing is deleted."""
    server.train("truck", "--epoch-s 0.4", epochs=8)
    kill_and_damage(server, "truck", "last.pt", "best.pt")
    held = server.wait("truck", "HELD")
    assert "scratch would lose epochs" in held["reason"]
    assert "last.pt is torn" in held["reason"]
    assert server.attempts("truck") == [1]
    assert (server.run_dir("truck") / "train" / "weights" / "last.pt").stat().st_size == 1000
    view = server.client.get("/v1/runs/truck")
    assert "yolo-supervisor resume truck" in view["commands"]


def test_a_held_run_goes_on_when_the_person_put_a_good_checkpoint_back(server):
    """HELD is not the end: `resume` looks again."""
    server.train("truck", "--epoch-s 0.4", epochs=8)
    server.wait_saved("truck", 1)
    weights = server.run_dir("truck") / "train" / "weights"
    good = (weights / "last.pt").read_bytes()
    kill_and_damage(server, "truck", "last.pt", "best.pt")
    server.wait("truck", "HELD")
    (weights / "last.pt").write_bytes(good)
    server.order("resume", "truck")
    server.wait("truck", "SUCCEEDED")
    assert server.epochs_in_table("truck") == list(range(1, 9))


def test_checkpoints_that_vanished_are_no_reason_to_begin_anew(server):
    """Epochs were saved and the files are gone (a disk is not mounted?): held."""
    server.train("truck", "--epoch-s 0.4", epochs=8)
    server.wait_saved("truck", 2)
    server.end(signal.SIGKILL)
    (server.run_dir("truck") / "train").rename(server.run_dir("truck") / "elsewhere")
    shutil.rmtree(server.run_dir("truck") / "good", ignore_errors=True)
    os.kill(server.attempt("truck").pid, signal.SIGKILL)
    server.start()
    assert "not mounted" in server.wait("truck", "HELD")["reason"]


def test_without_any_checkpoint_it_begins_anew_and_says_so(server):
    """Killed in the first epoch: nothing is lost by a start from the beginning, and `why` says that it is one."""
    server.train("truck", "--epoch-s 0.5 --batches 10", epochs=2)
    until(lambda: server.attempt("truck").beats("batch"), "the first batch")
    os.kill(server.attempt("truck").pid, signal.SIGKILL)
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1, 2]
    assert server.attempt("truck", 2).beats("fresh")
    assert "starts from the beginning: no checkpoint is there" in server.cli("why", "truck", "--events").stdout


def test_a_torn_first_checkpoint_is_set_aside_before_the_start_from_scratch(server):
    """Killed while writing the very first last.pt: no epoch was ever saved, so scratch is allowed; the file is kept."""
    server.train("truck", "--torn-checkpoint 1 --exit 1@9", epochs=1, restart={"no_progress": 2})
    failed = server.wait("truck", "FAILED")
    assert server.attempts("truck") == [1, 2]
    assert (server.attempt("truck", 2).directory / "aside" / "last.pt").exists()
    assert "without a newly saved epoch" in failed["reason"]


def test_failures_without_progress_end_the_run_with_the_reason(server):
    """Three attempts that save nothing: FAILED, with the trainer's last word and the rule that was used up."""
    server.train("truck", "--exit 1", epochs=3)
    failed = server.wait("truck", "FAILED")
    assert server.attempts("truck") == [1, 2, 3]
    assert "3 failures in a row without a newly saved epoch (no_progress = 3)" in failed["reason"]
    assert "exit code 1" in failed["reason"]
    assert "retry truck" in " ".join(server.client.get("/v1/runs/truck")["commands"])
    until((server.jobs / "done" / "truck.toml").exists, "the job file is in done/")
    waits = [row.reason for row in server.history("truck@1", "Examined")]
    assert "failure 1 of 3 without progress: tried again in" in waits[0]


def test_a_run_that_dies_behind_every_epoch_still_arrives(server):
    """Killed once in each attempt behind a newly saved epoch, with patience for one failure only."""
    server.train("truck", "--epoch-s 0.4 --batches 8", epochs=5, restart={"no_progress": 1})
    for number in (1, 2, 3):
        server.attempt("truck", number).wait_for_beat("saved", epoch=number - 1)
        os.kill(server.attempt("truck", number).pid, signal.SIGKILL)
    done = server.wait("truck", "SUCCEEDED")
    assert done["attempt"] == 4
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5]


def test_exit_code_0_without_the_trainers_own_end_is_not_finished(server):
    """[train]: no end record, so it is resumed, and not believed in the end either."""
    server.train("truck", "--no-end", epochs=2, restart={"no_progress": 2})
    failed = server.wait("truck", "FAILED", "HELD")
    assert failed["phase"] != "SUCCEEDED"
    first = next(row for row in server.history("truck@1", "Examined"))
    assert first.body["finished"] is False
    assert server.attempt("truck").json("exit.json")["code"] == 0


def test_exit_code_0_of_a_command_without_its_done_line_is_not_finished(server):
    """`done.log` must hold too."""
    server.toy("lorry", "--no-end", epochs=2, restart={"no_progress": 1})
    ended = server.wait("lorry", "FAILED", "HELD")
    assert ended["reason"].startswith(("exit code 0", "exit code 1: cannot resume"))  # the toy has nothing left to do
    assert all(not row.body["finished"] for row in server.history("lorry@1", "Examined"))


def test_a_training_stopped_from_outside_goes_on_and_that_is_no_failure(server):
    """SIGTERM by somebody else: exit code 75, resumed, not counted."""
    server.train("truck", "--epoch-s 0.3", epochs=5, restart={"no_progress": 1})
    server.wait_saved("truck", 2)
    os.kill(server.attempt("truck").pid, signal.SIGTERM)
    done = server.wait("truck", "SUCCEEDED")
    assert server.attempt("truck").json("exit.json")["code"] == 75
    assert done["attempt"] == 2
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5]
    [first] = [row for row in server.history("truck@1", "Examined") if row.body["attempt"] == 1]
    assert "stopped from outside" in first.reason


@pytest.mark.parametrize("server", [{"queue": {"max_running": 9}}], indirect=True)
def test_codes_that_no_other_try_mends_hold_the_run(server):
    """The runner's codes for a person (contract): HELD at once, each with its own meaning."""
    codes = (2, 65, 66, 76, 77)
    for code in codes:
        server.train(f"truck-{code}", f"--exit {code}@2", epochs=3)
    reasons = {code: server.wait(f"truck-{code}", "HELD")["reason"] for code in codes}
    assert {code: server.attempts(f"truck-{code}") for code in codes} == {code: [1] for code in codes}
    assert len({reason.partition(":")[0] for reason in reasons.values()}) == len(codes)


def test_a_command_that_is_gone_at_its_start_is_a_failure_with_its_reason(server):
    """It cannot be executed: the reason names the file, no attempt is left hanging."""
    program = server.top / "trainer"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    server.end(signal.SIGTERM)
    server.tables["queue"]["max_running"] = 1
    server.write_config()
    server.start()
    server.toy("first", epochs=6)
    server.wait("first", "RUNNING")
    server.drop("lorry.toml", f'command = ["{program}"]\nrestart = {{ no_progress = 1 }}\n')
    server.wait("lorry", "QUEUED")
    program.unlink()
    failed = server.wait("lorry", "FAILED")
    assert "No such file" in failed["reason"]
    assert str(program) in failed["reason"]
