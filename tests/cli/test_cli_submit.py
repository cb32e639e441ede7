"""`submit` and `new`: what reaches the jobs folder, what is refused before, and what the daemon answers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from supervisor import toml_errors
from supervisor.cli.absolute import make_absolute
from supervisor.errors import UserError

TRAIN = 'python = "/bin/sh"\n[train]\nmodel = "/m.yaml"\ndata = "/d.yaml"\nepochs = 3\n'
COMMAND = 'command = ["/bin/true"]\n'


@pytest.fixture
def truck(tmp_path):
    """A job file."""
    path = tmp_path / "truck.toml"
    path.write_text(TRAIN)
    return path


def test_submit_puts_the_file_there_and_prints_the_run(daemon, spool, cli, truck):
    """The jobs folder gets exactly one file, and the run's id is printed."""
    done = cli("submit", truck)
    assert done.exit_code == 0, done.output
    assert "truck@1 is PREPARING" in done.stdout
    assert [path.name for path in daemon.jobs_folder.iterdir()] == ["truck.toml"]
    assert (daemon.jobs_folder / "truck.toml").read_bytes() == truck.read_bytes()


def test_submit_speaks_json(daemon, spool, cli, truck):
    """--json tells revision, state and run, with a version."""
    view = json.loads(cli("submit", truck, "--json").stdout)
    assert view["version"] == 1
    assert (view["files"][0]["state"], view["files"][0]["run"]) == ("accepted", "truck@1")


def test_a_bad_file_never_reaches_the_folder(daemon, spool, cli, truck):
    """A mistake is told with file, line and fix before anything is copied; of several files none is."""
    bad = truck.with_name("bad.toml")
    bad.write_text(TRAIN.replace("epochs = 3", "epochs = 0"))
    done = cli("submit", truck, bad)
    assert done.exit_code == 2
    assert "bad.toml" in done.stderr
    assert "epochs" in done.stderr
    assert list(daemon.jobs_folder.iterdir()) == []


def test_a_refusal_by_the_daemon_is_told(daemon, spool, cli, truck):
    """What only the machine can know is answered by the daemon: its reason, exit code 2."""
    truck.write_text('tags = ["refuse"]\n' + TRAIN)
    done = cli("submit", truck)
    assert done.exit_code == 2
    assert "the machine says no" in done.stderr


def test_a_file_that_nobody_takes_exits_75(daemon, cli, truck, monkeypatch):
    """If the daemon does not answer about the file in time, the exit code says: later."""
    from supervisor.cli import submit

    monkeypatch.setattr(submit, "ANSWER_WITHIN_S", 0.0)
    done = cli("submit", truck)
    assert done.exit_code == 75
    assert "was not taken yet" in done.stderr


def test_two_files_of_one_name_are_refused(daemon, spool, cli, truck):
    """Two jobs cannot share a name: nothing is copied."""
    other = truck.with_name("other.toml")
    other.write_text('name = "truck"\n' + TRAIN)
    assert cli("submit", truck, other).exit_code == 2
    assert list(daemon.jobs_folder.iterdir()) == []


def test_the_file_is_named_after_the_job(daemon, spool, cli, truck):
    """Two authors' `job.toml` do not overwrite each other: the copy has the job's name."""
    for name in ("truck", "car"):
        truck.write_text(f'name = "{name}"\n' + TRAIN)
        assert cli("submit", truck).exit_code == 0
    assert sorted(path.name for path in daemon.jobs_folder.iterdir()) == ["car.toml", "truck.toml"]


def test_standard_input(daemon, spool, cli):
    """`-` reads standard input and needs --name."""
    assert cli("submit", "-", stdin=TRAIN).exit_code == 2
    assert cli("submit", "-", "--name", "piped", stdin=TRAIN).exit_code == 0
    assert (daemon.jobs_folder / "piped.toml").exists()


def test_submit_wait_exits_with_the_run(daemon, spool, cli, truck, monkeypatch):
    """`submit --wait` waits for the run and exits as `wait` does."""
    from supervisor.cli import waiting
    from supervisor.core import events

    def end(_):
        run_id = daemon.world.latest["truck"]
        daemon.put(events.CancelAsked(at=daemon.clock.now(), run=run_id, by="test"))
        daemon.put(events.Prepared(at=daemon.clock.now(), run=run_id, attempt=1, start="fresh"))

    monkeypatch.setattr(waiting.wait_for, "__defaults__", (end,))
    done = cli("submit", truck, "--wait")
    assert done.exit_code == 21, done.output
    assert "CANCELLED" in done.stdout


def test_a_folder_that_may_not_be_written(daemon, spool, cli, truck):
    """If the jobs folder cannot be written the reason is told, and no half file is left."""
    daemon.jobs_folder.rmdir()
    daemon.jobs_folder.write_text("not a folder")
    done = cli("submit", truck)
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr
    daemon.jobs_folder.unlink()
    daemon.jobs_folder.mkdir()


def test_submit_needs_a_daemon(cli, daemon, truck):
    """Without a daemon `submit` exits 3 and copies nothing."""
    daemon.api.stop()
    assert cli("submit", truck).exit_code == 3
    assert list(daemon.jobs_folder.iterdir()) == []


def test_check_prints_the_plan_without_a_daemon(daemon, cli, tmp_path):
    """`submit --check` works without a daemon and tells interpreter, command, directory, device; nothing is copied."""
    job = tmp_path / "own.toml"
    text = f'python = "{sys.executable}"\ncommand = ["{{python}}", "-c", "pass"]\ngpus = 0\n'
    job.write_text(text + '[restart]\nremedies = ["batch", "checkpoint"]\n')
    config = daemon.write_config()
    daemon.api.stop()
    from click.testing import CliRunner

    from supervisor.cli.program import program

    done = CliRunner().invoke(program, ["--config", str(config), "submit", str(job), "--check"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for part in (
        sys.executable,
        "-c pass",
        f"{daemon.runs_dir}/default/own",
        "CPU",
        "from the beginning",
        "batch have no effect",
    ):
        assert part in done.stdout, done.stdout
    assert list(daemon.jobs_folder.iterdir()) == []


# ---- relative paths
def absolute(text, base):
    return toml_errors.read(make_absolute(text.encode(), base, "x.toml"), "x.toml")[0]


def test_relative_paths_are_made_absolute_by_the_files_folder(tmp_path):
    """Paths of python, cwd, the program, model and data become absolute; names, addresses and the rest stay."""
    (tmp_path / "beside.yaml").touch()
    table = absolute(
        'cwd = "code"\npython = "venv/bin/python"\ncommand = ["./go.sh", "data/x"]\n'
        '[train]\nmodel = "yolo11s.pt"\ndata = "beside.yaml"\npretrained = \'sub/w.pt\'\n',
        tmp_path,
    )
    assert table["cwd"] == f"{tmp_path}/code"
    assert table["python"] == f"{tmp_path}/venv/bin/python"
    assert table["command"] == [f"{tmp_path}/go.sh", "data/x"]
    assert table["train"] == {
        "model": "yolo11s.pt",
        "data": f"{tmp_path}/beside.yaml",
        "pretrained": f"{tmp_path}/sub/w.pt",
    }


def test_comments_and_layout_stay(tmp_path):
    """Only the paths change: comments, order and spacing are the author's."""
    text = '# data = "../d.yaml" is a comment\n[train]\n  model = "a.pt"   # mine\n  data  =  "../d.yaml"\n'
    expected = text.replace('  "../d.yaml"\n', f'  "{tmp_path.parent}/d.yaml"\n')
    assert make_absolute(text.encode(), tmp_path, "x.toml").decode() == expected


@pytest.mark.parametrize(
    "text",
    [
        'train = { model = "x/m.pt", data = "x/d.yaml" }\n',
        '[train]\r\nmodel = "x/m.pt"\r\ndata = "x/d.yaml"\r\n',
        '\ufeff[train]\nmodel = "x/m.pt"\ndata = "x/d.yaml"',
        'train.model = "x/m.pt"\ntrain.data = "x/d.yaml"\n',
        '[train]\nmodel = "x/m.pt"\ndata = "x/d.yaml"\nnote = "x/m.pt"\n',
        'title = "x/d.yaml"\n[train]\nmodel = "x/m.pt"\ndata = \'x/d.yaml\'\n',
    ],
)
def test_every_way_to_write_it(tmp_path, text):
    """Inline tables, dotted keys, CRLF, a byte order mark, a missing last newline, equal texts elsewhere."""
    folder = tmp_path / '数据 "dir"'
    table = absolute(text, folder)
    assert table["train"]["model"] == f"{folder}/x/m.pt"
    assert table["train"]["data"] == f"{folder}/x/d.yaml"
    assert {"note": "x/m.pt", **table["train"]}["note"] == "x/m.pt"


def test_what_cannot_be_replaced_safely_is_refused(tmp_path):
    """A path that is written in an unusual way is not guessed at."""
    with pytest.raises(UserError, match="write"):
        make_absolute(b'[train]\nmodel = "x/\\u006d.pt"\n', tmp_path, "x.toml")


def test_links_stay(tmp_path):
    """The interpreter of a virtual environment is a link: it is not followed."""
    (tmp_path / "venv").symlink_to("/usr")
    assert absolute('python = "venv/bin/python3"\n', tmp_path)["python"] == f"{tmp_path}/venv/bin/python3"


def test_the_last_line_gets_its_end(tmp_path):
    """A copy always ends with a newline: the daemon takes it at once."""
    assert make_absolute(b"a = 1", tmp_path, "x").endswith(b"\n")


# ---- new
def test_new_from_a_command(cli, tmp_path, monkeypatch):
    """`new -- yolo …` prints a job file with absolute paths that the parser takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.yaml").touch()
    done = cli("new", "--", "yolo", "detect", "train", "model=yolo11s.pt", "data=d.yaml", "epochs=3")
    assert done.exit_code == 0
    table = toml_errors.read(done.stdout.encode(), "x")[0]
    assert table["train"]["data"] == f"{tmp_path}/d.yaml"
    assert table["train"]["epochs"] == 3


def test_new_names_the_active_environment(cli, tmp_path, monkeypatch):
    """The interpreter of the active environment is written into the file."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "env"))
    assert f'python = "{python}"' in cli("new", "--", "yolo", "train", "model=a.pt", "data=b.yaml").stdout


def test_new_from_args_yaml_into_a_file(cli, tmp_path, monkeypatch):
    """--from reads an args.yaml, -o writes a file, and never over one that is there."""
    monkeypatch.setenv("PATH", "")
    args = tmp_path / "args.yaml"
    args.write_text("task: detect\nmode: train\nmodel: yolo11s.pt\ndata: coco8.yaml\nepochs: 7\nresume: null\n")
    out = tmp_path / "job.toml"
    assert cli("new", "--from", args, "-o", out).exit_code == 0
    assert "epochs = 7" in out.read_text()
    again = cli("new", "--from", args, "-o", out)
    assert again.exit_code == 1
    assert "there already" in again.stderr


@pytest.mark.parametrize("words", [(), ("--from", "a.yaml", "--", "yolo", "train"), ("--", "yolo", "predict")])
def test_new_says_what_it_needs(cli, words):
    """Neither or both sources, or something that is no training: exit code 2 with a reason."""
    done = cli("new", *words)
    assert done.exit_code == 2
    assert done.stderr


def test_what_new_prints_can_be_submitted(daemon, spool, cli, tmp_path, monkeypatch):
    """The output of `new` goes straight into `submit -`."""
    monkeypatch.chdir(tmp_path)
    text = cli("new", "--", "yolo", "train", "model=/m.pt", "data=/d.yaml", "name=exp 1").stdout
    assert cli("submit", "-", "--name", "exp", stdin=text).exit_code == 0
    assert Path(daemon.jobs_folder / "exp-1.toml").stat().st_uid == os.getuid()
