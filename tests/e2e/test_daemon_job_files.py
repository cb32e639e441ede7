"""Job files as people and programs really write them: refused with reasons, edited, deleted, hostile."""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path

import pytest
from daemon_harness import MODEL, SYSTEM_PATH, TOY, alive, job, needs, until

pytestmark = pytest.mark.e2e

TRUE = 'command = ["/bin/true"]\n'


REFUSED = [
    ('nmae = "x"\ncommand = ["/bin/true"]\n', ["line 1", "nmae", "unknown", "`name`"]),
    (
        TRUE + 'priority = "high"\n',
        ["line 2", "priority", "expected a whole number from -100 to 100", 'got "high"'],
    ),
    (TRUE + "time_limit = 300\n", ["line 2", "time_limit", "expected", "got 300"]),
    ('[train]\nmodel = "m.yaml"\n', ["train.data", "missing"]),
    ('name = "a/../b"\n' + TRUE, ["line 1", "name", "expected", "a/../b"]),
    ("title = 'no work'\n", ["[train] or command"]),
    (TRUE + "env = { CUDA_VISIBLE_DEVICES = '0' }\n", ["CUDA_VISIBLE_DEVICES", "gpus"]),
    ('command = ["/no/such/program"]\n', ["command", "/no/such/program", "not there"]),
    (TRUE + "gpus = 99\n", ["line 2", "gpus", "expected at most", "got 99"]),
    (TRUE + 'notify = ["nobody"]\n', ["notify", "nobody"]),
]


def test_a_refused_file_says_file_line_key_expected_got_and_the_fix(server):
    """NAME.toml.error beside each; no run comes of them; the daemon's status lists them."""
    files = {server.drop(f"wrong-{number}.toml", text): said for number, (text, said) in enumerate(REFUSED)}
    for file, said in files.items():
        error = server.error_beside(file)
        for words in (file.name, *said):
            assert words in error, error
    assert server.all_runs() == {}
    assert server.client.get("/v1/status")["refused_files"].keys() == {str(file) for file in files}


def test_a_mended_file_is_accepted_and_its_error_goes(server):
    """Saved again with the right content: a run, and no .error any more."""
    file = server.drop("truck.toml", "nmae = 'truck'\n" + TRUE)
    server.error_beside(file)
    server.drop("truck.toml", "name = 'truck'\n" + TRUE)
    until(lambda: server.all_runs().keys() == {"truck@1"}, "the run")
    until(lambda: not file.with_name("truck.toml.error").exists(), "the .error is gone")


def test_an_argument_that_the_jobs_own_library_does_not_know_is_refused_with_the_nearest(server):
    """[train] is checked against the job's own interpreter: `epoch` → `epochs`, and the line of the key."""
    server.train("truck", train={"imgs": 640})
    error = server.error_beside(server.jobs / "truck.toml")
    assert "train.imgs" in error
    assert "did you mean `imgsz`" in error
    assert "Ultralytics 8.4.190" in error


def test_missing_model_data_and_interpreter_are_refused(server):
    """What is not there is said before anything starts."""
    server.train("truck", train={"data": "/no/data.yaml", "model": "/no/model.pt"})
    error = server.error_beside(server.jobs / "truck.toml")
    assert "train.data" in error
    assert "train.model" in error
    broken = server.drop("car.toml", f'python = "/no/python"\n[train]\nmodel = "{MODEL}"\ndata = "{MODEL}"\n')
    assert "/no/python" in server.error_beside(broken)


def test_the_same_file_again_never_runs_twice(server):
    """After the end: the same content is refused with the way to run it again; an edited one is a new run."""
    file = server.train("truck", epochs=1)
    text = file.read_bytes() if file.exists() else (server.jobs / "done" / "truck.toml").read_bytes()
    server.wait("truck", "SUCCEEDED")
    until((server.jobs / "done" / "truck.toml").exists, "it is in done/")
    error = server.error_beside(server.drop("truck.toml", text))
    assert "retry truck" in error
    assert "truck@1" in error
    assert server.attempts("truck") == [1]
    server.drop("truck.toml", text.replace(b"epochs = 1", b"epochs = 2"))
    until(lambda: server.run("truck")["id"] == "truck@2", "the new run")
    server.wait("truck", "SUCCEEDED")
    assert server.epochs_in_table("truck") == [1, 2]
    assert (server.run_dir("truck") / "before-1" / "train" / "results.csv").exists()


def test_a_running_jobs_file_may_come_again_without_effect(server):
    """The same content under the same name while it runs: nothing is started, nothing is refused."""
    file = server.train("truck", "--epoch-s 0.5", epochs=4)
    server.wait_saved("truck", 1)
    file.write_bytes(file.read_bytes())
    os.utime(file)
    server.restart()
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1]
    assert list(server.all_runs()) == ["truck@1"]


@pytest.mark.parametrize("server", [{"queue": {"max_running": 1}}], indirect=True)
def test_an_edit_of_a_queued_job_replaces_it(server):
    """Before its first attempt: what runs in the end is the last content, as one run."""
    server.train("first", "--epoch-s 1.5", epochs=1)
    server.wait("first", "RUNNING")
    server.train("truck", epochs=7)
    server.wait("truck", "QUEUED")
    server.train("truck", epochs=2, priority=7)
    until(lambda: server.run("truck")["priority"] == 7, "the edit is there")
    server.wait("truck", "SUCCEEDED")
    assert list(server.all_runs()) in (["truck@1", "first@1"], ["first@1", "truck@1"])
    assert server.epochs_in_table("truck") == [1, 2]
    copied = (server.run_dir("truck") / "job.toml").read_text()
    assert "epochs = 2" in copied


def test_an_allowed_edit_of_a_running_job_takes_effect_at_the_next_attempt(server):
    """`env` may change: this attempt keeps what it has, the next one gets the new value; the run is the same."""
    server.train("truck", "--epoch-s 0.4", epochs=6, env={"COLOUR": "red"})
    server.wait_saved("truck", 1)
    server.train("truck", "--epoch-s 0.4", epochs=6, env={"COLOUR": "blue"})
    until(lambda: server.history("truck@1") and "blue" in json.dumps(server.client.get("/v1/runs/truck")), "taken")
    assert server.attempt("truck").env["COLOUR"] == "red"
    os.kill(server.attempt("truck").pid, 9)
    server.wait("truck", "RUNNING")
    until(lambda: server.attempts("truck") == [1, 2], "attempt 2")
    assert server.attempt("truck", 2).json("launch.json")["env"]["COLOUR"] == "blue"
    server.wait("truck", "SUCCEEDED")
    assert "blue" in (server.run_dir("truck") / "job.toml").read_text()
    assert not (server.jobs / "truck.toml.error").exists()


def test_an_edit_that_no_resume_can_make_is_refused_and_the_run_goes_on(server):
    """`epochs` of a running job: .error with key, reason, both values; this and the next attempts keep the old file."""
    file = server.train("truck", "--epoch-s 0.4", epochs=5)
    server.wait_saved("truck", 1)
    server.train("truck", "--epoch-s 0.4", epochs=50)
    error = server.error_beside(file)
    assert "train.epochs" in error
    assert "expected 5" in error
    assert "got 50" in error
    assert "goes on unchanged" in error
    os.kill(server.attempt("truck").pid, 9)
    server.wait("truck", "SUCCEEDED")
    assert server.epochs_in_table("truck") == [1, 2, 3, 4, 5]
    assert "epochs = 5\n" in (server.run_dir("truck") / "job.toml").read_text()
    assert file.exists()  # the refused edit is not the content that ran: it stays for its owner to see


def test_a_deleted_file_stops_nothing(server):
    """The run goes on, over a crash too: what was checked is what runs."""
    file = server.train("truck", "--epoch-s 0.4 --signal-after KILL@4.1 --fault-once", epochs=6)
    server.wait_saved("truck", 1)
    file.unlink()
    server.wait("truck", "SUCCEEDED")
    assert server.attempts("truck") == [1, 2]
    assert server.history("truck@1")
    assert "FAILED" not in {run["phase"] for run in server.all_runs().values()}


def test_two_files_with_one_name_are_one_run_and_a_refusal(server):
    """The second one is told whose the name is; the first run is not touched."""
    server.train("truck", "--epoch-s 0.5", epochs=3)
    server.wait("truck", "RUNNING")
    second = server.drop("copy.toml", 'name = "truck"\n' + TRUE)
    error = server.error_beside(second)
    assert "truck.toml" in error
    server.wait("truck", "SUCCEEDED")
    assert list(server.all_runs()) == ["truck@1"]


def test_a_file_that_came_while_no_daemon_was_there_is_taken(server):
    """Moved in between two daemons."""
    server.end()
    server.train("truck", epochs=1)
    server.start()
    server.wait("truck", "SUCCEEDED")


def hostile():
    """Forty ways to break whoever reads a folder of TOML files: name → content."""
    seeded = random.Random(5)  # the same noise in every run
    deep = "[" * 5000 + "]" * 5000
    return {
        "empty.toml": b"",
        "newline.toml": b"\n",
        "nul.toml": b"\0" * 100 + b"\n",
        "noise.toml": seeded.randbytes(4096) + b"\n",
        "elf.toml": b"\x7fELF" + seeded.randbytes(500) + b"\n",
        "utf16.toml": 'name = "a"\n'.encode("utf-16"),
        "latin.toml": 'title = "Müller"\n'.encode("latin-1"),
        "megabyte.toml": b"# " + b"x" * 1_000_000 + b"\n",
        "megastring.toml": b'title = "' + b"x" * 1_000_000 + b'"\n',
        "ten-megabytes.toml": b"a = 1\n" * 1_700_000,
        "deep-list.toml": f"x = {deep}\n".encode(),
        "deep-table.toml": ("[" + ".".join(["a"] * 5000) + "]\n").encode(),
        "deep-inline.toml": ("x = " + "{a = " * 3000 + "1" + "}" * 3000 + "\n").encode(),
        "deep-train.toml": f"[train]\nmodel = {deep}\n".encode(),
        "many-keys.toml": b"".join(b"k%d = 1\n" % n for n in range(20_000)),
        "huge-number.toml": b"priority = " + b"9" * 5000 + b"\n",
        "float-priority.toml": TRUE.encode() + b"priority = 1e400\n",
        "nan.toml": TRUE.encode() + b"gpus = nan\n",
        "negative-gpus.toml": TRUE.encode() + b"gpus = -1\n",
        "all-wrong.toml": b"name = 1\nproject = []\ncommand = {}\nenv = 3\ntrain = 'x'\ngpus = {}\n",
        "duplicate-key.toml": b'name = "a"\nname = "b"\n',
        "duplicate-table.toml": b"[train]\nmodel='a'\n[train]\nmodel='b'\n",
        "climb-name.toml": b'name = "../../../tmp/evil"\n' + TRUE.encode(),
        "climb-project.toml": b'project = ".."\n' + TRUE.encode(),
        "climb-project-2.toml": b'project = "../../etc"\n' + TRUE.encode(),
        "absolute-name.toml": b'name = "/etc/evil"\n' + TRUE.encode(),
        "dot-name.toml": b'name = "."\n' + TRUE.encode(),
        "climb-checkpoint.toml": TRUE.encode() + b'checkpoint_files = ["{run_dir}/../../../etc/*"]\n',
        "climb-done.toml": TRUE.encode() + b'done = { file = "{run_dir}/../../x" }\n',
        "nul-command.toml": b'command = ["/bin/true", "a\\u0000b"]\n',
        "nul-env.toml": TRUE.encode() + b'env = { A = "x\\u0000y" }\n',
        "equals-env.toml": TRUE.encode() + b'env = { "A=B" = "x" }\n',
        "marker-env.toml": TRUE.encode() + b'env = { YOLO_SUPERVISOR_RUN = "other@1" }\n',
        "newline-name.toml": b'name = "a\\nb"\n' + TRUE.encode(),
        "huge-regex.toml": TRUE.encode() + b'done = { log = "(((((((((("\n',
        "bad-regex.toml": TRUE.encode() + b'done = { log = "(a" }\n',
        "year-10000.toml": TRUE.encode() + b"start_after = 9999-12-31T23:59:59Z\ntime_limit = 3\n",
        "placeholder.toml": b'command = ["/bin/true", "{nonsense}"]\n',
        "unknown-table.toml": TRUE.encode() + b"[gpu]\nmin = 1\n",
        "script.toml": b"#!/bin/sh\nrm -rf /\n",
        "json.toml": b'{"command": ["/bin/true"]}\n',
        "pickle.toml": b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.\n",
        ("n" * 250) + ".toml": b"name = 3\n",  # NAME.toml.error is longer than a file name may be
        "卡车 \u202e.toml": b"x = \n",
        "a\nb.toml": b"x = \n",
    }


def odd_entries(server):
    """What is no regular file, and traps beside files; none of it may be opened, followed or waited for."""
    secret = server.top / "secret"
    secret.write_text("precious = 1\n")
    (server.jobs / "link.toml").symlink_to(secret)
    (server.jobs / "passwd.toml").symlink_to("/etc/passwd")
    (server.jobs / "dangling.toml").symlink_to("/no/such/file")
    (server.jobs / "loop.toml").symlink_to("loop.toml")
    os.mkfifo(server.jobs / "pipe.toml")
    (server.jobs / "folder.toml").mkdir()
    (server.jobs / "blocked.toml.error").mkdir()
    (server.jobs / ".trap.toml.error.tmp").symlink_to(secret)
    (server.jobs / "trap.toml").write_text("x = 1\n")
    (server.jobs / "blocked.toml").write_text("x = 1\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server.jobs / "socket.toml"))
    Path(os.fsdecode(os.fsencode(server.jobs) + b"/\xff\xfe.toml")).write_text("x = 1\n")
    return secret


def test_the_daemon_survives_hostile_files_while_a_training_runs(server):
    """Each is refused with a reason; nothing is written outside; the training and later jobs are not disturbed."""
    server.train("bystander", "--epoch-s 0.3", epochs=25)
    server.wait_saved("bystander", 1)
    trainer, daemon = server.attempt("bystander").pid, server.daemon.pid
    before = {path.name for path in server.top.iterdir()}
    secret = odd_entries(server)
    files = {name: server.drop(name, data) for name, data in hostile().items()}
    for name, file in files.items():
        if len(name) < 200:
            assert "was refused" in server.error_beside(file), name
    assert "unknown" in server.error_beside(server.jobs / "trap.toml")
    assert secret.read_text() == "precious = 1\n"
    assert server.daemon.poll() is None
    assert server.daemon.pid == daemon
    assert alive(trainer)
    server.train("after-all", epochs=1)
    server.wait("after-all", "SUCCEEDED")
    server.wait("bystander", "SUCCEEDED")
    assert server.attempts("bystander") == [1]
    assert sorted(server.all_runs()) == ["after-all@1", "bystander@1"]
    assert {path.name for path in server.top.iterdir()} - before == {"secret"}
    assert sorted(path.name for path in server.runs_dir.iterdir()) == ["default"]
    assert "Traceback" not in server.said()
    assert "not UTF-8" in server.said()
    assert server.cli("ls").returncode == 0
    server.restart()
    server.train("next-daemon", epochs=1)
    server.wait("next-daemon", "SUCCEEDED")


def test_a_run_directory_that_is_a_link_is_not_followed(server):
    """Planted below the runs folder, it could lead a run anywhere: nothing is written behind it."""
    elsewhere = server.top / "elsewhere"
    elsewhere.mkdir()
    (server.runs_dir / "default").mkdir(parents=True)
    server.run_dir("truck").symlink_to(elsewhere)
    server.train("truck", epochs=1, restart={"no_progress": 1})
    assert "symbolic link" in server.wait("truck", "FAILED", "HELD")["reason"]
    assert list(elsewhere.iterdir()) == []


def test_a_job_folder_full_at_once_is_taken_in(server):
    """Two hundred jobs renamed in together: all become runs, within seconds, and the training beside them runs on."""
    server.end()
    for number in range(200):
        (server.jobs / f"many-{number:03}.toml").write_text(TRUE + 'after = ["never"]\n')
    server.start()
    until(lambda: len(server.all_runs()) == 200, "200 runs", 20)
    assert {run["phase"] for run in server.all_runs().values()} == {"QUEUED"}


def test_a_file_without_a_final_newline_waits_longer_and_is_warned_of(server):
    """It may have been cut: taken after twice the settle time (1 s here), and the warning stays with the run."""
    file = server.drop("truck.toml", TRUE.rstrip("\n"))
    dropped_at = file.stat().st_ctime
    run = server.wait("truck", "SUCCEEDED")
    assert run["created_at"] - dropped_at >= 1.9
    assert "may be cut short" in server.cli("why", "truck", "--events").stdout


def test_what_is_no_job_file_is_left_alone(server):
    """Dotfiles, backups, half copies: neither run nor .error."""
    for name in (".hidden.toml", "truck.toml~", "truck.toml.swp", "truck.toml.part", "truck.txt", "#truck.toml"):
        server.drop(name, "x = 1\n")
    server.train("after", epochs=1)
    server.wait("after", "SUCCEEDED")
    assert list(server.all_runs()) == ["after@1"]
    assert not [path.name for path in server.jobs.iterdir() if path.name.endswith(".error")]


@pytest.mark.parametrize(
    ("table", "key", "value", "said"),
    [("disk", "pause_below", "900TiB", "disk.pause_below"), ("jobs", "allow_root", False, "allow_root")],
)
def test_what_the_server_does_not_allow_is_refused(still, table, key, value, said):
    """A disk that is nearly full, a daemon that is root: the reason names the key of the configuration."""
    needs(key != "allow_root" or os.geteuid() == 0, "root")
    still.tables[table][key] = value
    still.write_config()
    still.start()
    assert said in still.error_beside(still.drop("truck.toml", TRUE))


@pytest.mark.parametrize("server", [{"queue": {"max_running_per_owner": 1, "max_queued_per_owner": 1}}], indirect=True)
def test_one_owner_does_not_take_all_places(server):
    """One runs, one waits for a place though the server has room, and one too many is refused."""
    server.train("one", epochs=300)
    server.wait("one", "RUNNING")
    server.train("two", epochs=1)
    assert server.wait("two", "QUEUED")["waiting_for"] == "slot"
    server.train("three", epochs=1)
    assert "max_queued_per_owner" in server.error_beside(server.jobs / "three.toml")


def test_a_file_written_slowly_runs_once_and_whole(server):
    """Written in pieces with the handle kept open: nothing is taken before it is closed."""
    text = job({"command": ["/usr/bin/env", "python3", str(TOY), "--save-dir", "{run_dir}/train", "--epochs", "3"],
                "env": {"PATH": SYSTEM_PATH}, "done": {"log": "3 epochs completed"}})  # fmt: skip
    with (server.jobs / "slow.toml").open("w") as file:
        for piece in (text[:20], text[20:90], text[90:]):
            file.write(piece)
            file.flush()
            assert server.run("slow") is None
    server.wait("slow", "SUCCEEDED")
    assert list(server.all_runs()) == ["slow@1"]
