from __future__ import annotations

import hashlib
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from supervisor.config import Defaults, Limits, Restarts
from supervisor.core.model import Job
from supervisor.errors import UserError
from supervisor.jobspec import parse

TRAIN = '[train]\nmodel = "yolo11s.yaml"\ndata = "/data/truck.yaml"\nepochs = 3\n'
HEAD = 'python = "/env/bin/python"\n'
COMMAND = 'command = ["/usr/bin/train", "--out", "{run_dir}"]\n'


def draft(text, defaults=None, now=0.0, path="/jobs/truck.toml"):
    """A job file's text, parsed."""
    data = text if isinstance(text, bytes) else text.encode()
    return parse(data, path=path, owner=7, defaults=defaults or Defaults(), now=now)


def job(text, **options):
    """The job in a job file's text."""
    return draft(text, **options).job


def refusal(text, **options):
    """The problems of a job file by their keys."""
    with pytest.raises(UserError) as caught:
        draft(text, **options)
    assert caught.value.file == options.get("path", "/jobs/truck.toml")
    return {problem.key: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[[rule]]\nname = "x"\n', "[[rule]] belongs into config.toml"),
        ('[hang]\nevery = "1s"\n', "a job has restart.hang_after"),
        ('[[channel]]\nname = "x"\n', "a job names the channels that it wants in `notify`"),
    ],
)
def test_a_table_of_the_configuration_is_sent_there(table, words):
    """With its line, as any other key; the first of a list of tables counts."""
    found = refusal(COMMAND + "\n" + table + table.replace("[hang]", "[hang2]"))
    [key] = found.keys() - {"hang2"}
    assert words in found[key].hint
    assert found[key].line == 3


def test_a_job_has_what_its_file_says():
    """Every key of the file is found again in the job, durations as seconds and sizes as bytes."""
    text = (
        'name = "truck-s"\nproject = "vehicles"\ntitle = "Trucks"\nnotes = "two\\nlines"\ntags = ["a", "b"]\n'
        'python = "/env/bin/python"\ncwd = "/data"\npriority = -5\ngpus = 2\nafter = ["pretrain"]\n'
        'time_limit = "3d"\nlimits = { log_max = "1GiB" }\nrestart = { no_progress = 5, backoff = "1s", backoff_max = "1h" }\n'
        'notify = ["ops"]\nenv = { A = "1" }\nsettings = { wandb = true }\n' + TRAIN
    )
    parsed = draft(text)
    found = parsed.job
    assert (found.name, found.project, found.title, found.notes) == ("truck-s", "vehicles", "Trucks", "two\nlines")
    assert (found.tags, found.after, found.notify) == (("a", "b"), ("pretrain",), ("ops",))
    assert (found.python, found.cwd, found.priority, parsed.gpus) == ("/env/bin/python", "/data", -5, 2)
    assert (found.time_limit_s, found.log_max_bytes) == (259200.0, 1024**3)
    assert (found.restart.no_progress, found.restart.backoff_s, found.restart.backoff_max_s) == (5, 1.0, 3600.0)
    assert (found.env, found.settings) == ({"A": "1"}, {"wandb": True})
    assert found.train == {"model": "yolo11s.yaml", "data": "/data/truck.yaml", "epochs": 3}
    assert (found.owner, found.file) == (7, "/jobs/truck.toml")
    assert found.revision == hashlib.sha256(text.encode()).hexdigest()


def test_a_job_is_named_after_its_file():
    """Without a name the file's stem is the name."""
    assert job(HEAD + TRAIN, path="/jobs/my.first-job.toml").name == "my.first-job"


@pytest.mark.parametrize("stem", ["two words", "训练", "x" * 65, "-x"])
def test_a_file_name_that_is_no_name_is_explained(stem):
    """A file whose name cannot be a job's name needs a name inside."""
    assert 'name = "…"' in refusal(HEAD + TRAIN, path=f"/jobs/{stem}.toml")["name"].hint
    assert job('name = "ok"\n' + HEAD + TRAIN, path=f"/jobs/{stem}.toml").name == "ok"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "a\\n", "..", "a b", "é"])
def test_names_cannot_leave_their_folder(name):
    """Names become folders: whatever could climb or hide is refused, for projects too."""
    assert "name" in refusal(f'name = "{name}"\n' + HEAD + TRAIN)
    assert "project" in refusal(f'project = "{name}"\n' + HEAD + TRAIN)


def test_the_built_in_defaults_are_the_models():
    """The defaults written in two places, config and model, are the same."""
    found = msgspec.structs.asdict(job(HEAD + TRAIN))
    built_in = msgspec.structs.asdict(Job(name="x", revision="x"))
    same = ("project", "priority", "log_max_bytes", "restart", "time_limit_s", "notify", "env", "env_pass", "done")
    assert {key: found[key] for key in same} == {key: built_in[key] for key in same}


def test_the_job_wins_over_the_configuration_key_by_key():
    """Job, else [defaults], else built-in; tables are merged, not replaced."""
    defaults = Defaults(
        python=Path("/default/python"),
        priority=3,
        gpus=4,
        env={"A": "default", "B": "default"},
        env_pass=("LD_LIBRARY_PATH",),
        limits=Limits(log_max=5),
        restart=Restarts(no_progress=9, backoff=2.0),
        notify=("ops",),
        time_limit=60.0,
    )
    parsed = draft('env = { A = "job" }\nrestart = { backoff = "4s" }\nnotify = []\npriority = 0\n' + TRAIN, defaults)
    found = parsed.job
    assert found.env == {"A": "job", "B": "default"}
    assert (found.restart.no_progress, found.restart.backoff_s, found.restart.backoff_max_s) == (9, 4.0, 600.0)
    assert (found.notify, found.priority, parsed.gpus, found.time_limit_s) == ((), 0, 4, 60.0)
    assert (found.python, found.log_max_bytes, found.env_pass) == ("/default/python", 5, ("LD_LIBRARY_PATH",))


def test_the_jobs_interpreter_replaces_the_default_one():
    """Interpreter and conda name are one choice: the job's own hides both of [defaults]."""
    parsed = draft('conda = "yolo"\n' + TRAIN, Defaults(python=Path("/default/python")))
    assert (parsed.conda, parsed.job.python) == ("yolo", "")
    parsed = draft(HEAD + TRAIN, Defaults(conda="other"))
    assert (parsed.conda, parsed.job.python) == ("", "/env/bin/python")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('checkpoints = { snapshot_every = "10m" }', "checkpoints.snapshot_every"),
        ('run_as = "me"', "run_as"),
        ('limits = { memory = "1GiB" }', "limits.memory"),
        ("limits = { pids = 5 }", "limits.pids"),
        ('env_pass = ["HOME"]', "env_pass"),
        ("epochs = 3", "epochs"),
    ],
)
def test_what_is_not_built_is_unknown(line, key):
    """Keys of later versions are refused by name and line, never read and ignored."""
    problem = refusal(f"{HEAD}{line}\n{TRAIN}")[key]
    assert "unknown key" in problem.message
    assert problem.line == 2


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("gpus = -1", "gpus"),
        ("gpus = []", "gpus"),
        ("gpus = true", "gpus"),
        ('gpus = "all"', "gpus"),
        ("priority = 101", "priority"),
        ("priority = 1.5", "priority"),
        ("time_limit = 60", "time_limit"),
        ('time_limit = "0s"', "time_limit"),
        ("limits = { log_max = 5 }", "limits.log_max"),
        ("limits = 5", "limits"),
        ('after = "x"', "after"),
        ('after = ["truck"]', "after"),
        ('after = ["../x"]', "after"),
        ('tags = ["a", 1]', "tags"),
        ("env = { A = 1 }", "env"),
        ('env = { "A B" = "1" }', "env.A B"),
        ('env = { CUDA_VISIBLE_DEVICES = "0" }', "env.CUDA_VISIBLE_DEVICES"),
        ('env = { YOLO_SUPERVISOR_TOKEN = "0" }', "env.YOLO_SUPERVISOR_TOKEN"),
        ('env = { A = "a\\u0000b" }', "env.A"),
        ("settings = { a = [1] }", "settings"),
        ('cwd = "data"', "cwd"),
        ('cwd = "~/data"', "cwd"),
        ('conda = "/envs/x"', "conda"),
        ('restart = { backoff = "1h" }', "restart"),
        ("restart = { no_progress = 0 }", "restart.no_progress"),
        ('start_after = "25:00"', "start_after"),
        ("start_after = 1979-05-27", "start_after"),
        ("start_after = 22", "start_after"),
        ('notify = "ops"', "notify"),
        ('title = "a\\u001bb"', "title"),
        (f"priority = {'9' * 30}", "priority"),
        ("settings = { a = nan }", "settings.a"),
    ],
)
def test_wrong_values_are_named(line, key):
    """A value of the wrong kind or range is refused by key and line."""
    problem = refusal(f"{line}\n{HEAD}{TRAIN}".replace(HEAD, "" if "conda" in line else HEAD))[key]
    assert problem.line == 1


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("device", "0", "gpus"),
        ("project", '"x"', "project"),
        ("name", '"x"', "name"),
        ("exist_ok", "true", "own directory"),
        ("save_dir", '"/x"', "runs_dir"),
        ("resume", "true", "by itself"),
        ("mode", '"train"', "trains"),
        ("cfg", '"/x.yaml"', "new"),
    ],
)
def test_our_arguments_are_refused_with_the_key_to_use(key, value, word):
    """What the supervisor decides cannot be said in [train]; the message says where it is said."""
    problem = refusal(f"{HEAD}{TRAIN}{key} = {value}\n")[f"train.{key}"]
    assert word in problem.hint
    assert problem.line == 6


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('model = "runs/x.pt"', "model"),
        ('model = "~/x.pt"', "model"),
        ('model = "https://host/x.pt"', "model"),
        ('model = ""', "model"),
        ("model = 5", "model"),
        ('model = "C:\\\\x.pt"', "model"),
        ("epochs = 0", "epochs"),
        ("epochs = true", "epochs"),
        ('epochs = "3"', "epochs"),
        ("lr0 = 1979-05-27", "lr0"),
        ("lr0 = { a = 1 }", "lr0"),
        ('pretrained = "weights/x.pt"', "pretrained"),
    ],
)
def test_train_arguments_are_checked(line, key):
    """Relative paths, addresses and values that no trainer can take are refused."""
    text = "\n".join(row for row in TRAIN.splitlines() if not row.startswith(f"{key} ="))
    assert f"train.{key}" in refusal(f"{HEAD}{text}\n{line}\n")


def test_bare_names_are_names():
    """What has no slash is a name for the trainer to resolve, not a relative path."""
    assert job(f'{HEAD}[train]\nmodel = "yolo11s"\ndata = "coco8.yaml"\n').train["model"] == "yolo11s"


@pytest.mark.parametrize("missing", ["model", "data"])
def test_model_and_data_are_not_guessed(missing):
    """A trainer left to its own choice downloads something: both must be named."""
    text = "\n".join(row for row in TRAIN.splitlines() if not row.startswith(missing))
    assert f"train.{missing}" in refusal(HEAD + text)


def test_a_job_trains_or_runs_a_command():
    """Neither is nothing to do, both is one too many."""
    assert "does nothing" in refusal(HEAD)[""].message
    assert "exclude" in refusal(HEAD + COMMAND + TRAIN)["command"].message


def test_a_training_needs_an_interpreter():
    """Without python, conda or a default there is nothing to start."""
    assert "[defaults]" in refusal(TRAIN)["python"].hint


def test_a_command_job_is_read():
    """A command, its resume form, its checkpoints and its proof of being done."""
    found = job(
        COMMAND + 'resume_command = ["/usr/bin/train", "--resume", "{checkpoint}"]\n'
        'checkpoint_files = ["{run_dir}/**/*.pt", "/data/x.pt"]\ndone = { exit = 3, log = "epochs? done", file = "{run_dir}/ok" }\n'
    )
    assert found.command == ("/usr/bin/train", "--out", "{run_dir}")
    assert found.resume_command[-1] == "{checkpoint}"
    assert found.checkpoint_files == ("{run_dir}/**/*.pt", "/data/x.pt")
    assert (found.done.exit, found.done.log, found.done.file) == (3, "epochs? done", "{run_dir}/ok")
    assert found.train is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('command = []\nresume_command = ["x"]\n', "resume_command"),
        ('command = ["bin/train"]', "command"),
        ('command = [""]', "command"),
        ('command = "train"', "command"),
        ('command = ["x", "{checkpoint}"]', "command"),
        ('command = ["x", "{rundir}"]', "command"),
        ('command = ["{python}", "x"]', "command"),
        (COMMAND + 'resume_command = ["x", "{checkpoint}"]', "resume_command"),
        (COMMAND + 'checkpoint_files = ["weights/*.pt"]', "checkpoint_files"),
        (COMMAND + 'checkpoint_files = ["{run_dir}/../x.pt"]', "checkpoint_files"),
        (COMMAND + 'checkpoint_files = ["{run_dir}/{port}"]', "checkpoint_files"),
        (COMMAND + 'done = { file = "ok" }', "done.file"),
        (COMMAND + 'done = { file = "/a/../ok" }', "done.file"),
        (COMMAND + 'done = { log = "(" }', "done.log"),
        (COMMAND + "done = { exit = 256 }", "done.exit"),
        (COMMAND + "done = { code = 0 }", "done.code"),
        (HEAD + 'checkpoint_files = ["/x"]\n' + TRAIN, "checkpoint_files"),
    ],
)
def test_command_jobs_are_checked(text, key):
    """Unknown placeholders, relative or climbing paths and keys without their partner are refused."""
    assert key in refusal(text)


def test_doubled_braces_are_plain_ones():
    """A command may hold braces that mean nothing to us."""
    assert job('command = ["x", "{{run_dir}} {{x}}"]').command[1] == "{{run_dir}} {{x}}"


@pytest.fixture
def berlin(monkeypatch):
    """A machine in Berlin, where clocks change."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("now", "wanted", "expected"),
    [
        ("2026-11-22T21:00:00+01:00", '"22:00"', "2026-11-22T22:00:00+01:00"),
        ("2026-11-22T22:00:00+01:00", '"22:00"', "2026-11-23T22:00:00+01:00"),
        ("2026-11-22T21:00:00+01:00", "22:00:00", "2026-11-22T22:00:00+01:00"),
        ("2026-10-24T23:00:00+02:00", '"22:00"', "2026-10-25T22:00:00+01:00"),
        ("2026-01-01T00:00:00+01:00", "2027-01-31T22:00:00", "2027-01-31T22:00:00+01:00"),
        ("2026-01-01T00:00:00+01:00", "2027-01-31T22:00:00Z", "2027-01-31T22:00:00+00:00"),
    ],
)
def test_start_after_is_the_next_such_local_time(berlin, now, wanted, expected):
    """A time of day means the next one after acceptance, by the clock on the wall, also over a change of clocks."""
    at = datetime.fromisoformat(now).timestamp()
    found = job(f"start_after = {wanted}\n{HEAD}{TRAIN}", now=at)
    assert found.start_after_at == datetime.fromisoformat(expected).timestamp()


def test_all_mistakes_are_said_at_once():
    """Wrong types, unknown keys and our own arguments are found in one reading, in the order of lines."""
    text = 'nam = "x"\ngpus = -1\n' + HEAD + TRAIN + "device = 0\nresume = true\n"
    with pytest.raises(UserError) as caught:
        draft(text)
    assert [problem.key for problem in caught.value.problems] == ["nam", "gpus", "train.device", "train.resume"]
    assert "line 8, train.device" in str(caught.value)


def test_lines_are_found_in_every_form_of_toml():
    """Quoted keys, dotted keys, tables and texts of several lines do not mislead the line numbers."""
    text = (
        'notes = """\ngpus = 1\n[train]\n"""\n"priority" = 500\nlimits.log_max = 5\nrestart = {\tbackoff = 1 }\n'
        + HEAD
        + TRAIN
    )
    problems = refusal(text)
    lines = {key: problem.line for key, problem in problems.items()}
    assert lines == {"priority": 5, "limits.log_max": 6, "restart.backoff": 7}


@pytest.mark.parametrize("encode", [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.replace("\n", "\r\n").encode()])
def test_byte_order_mark_and_carriage_returns_are_accepted(encode):
    """Files from Windows editors are read like others."""
    assert job(encode(HEAD + TRAIN)).train["epochs"] == 3


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ((HEAD + TRAIN).encode("utf-16"), "UTF-16"),
        ((HEAD + TRAIN).encode("utf-16-le"), "UTF-16"),
        (('title = "训练卡车"\n' + HEAD + TRAIN).encode("gbk"), "GBK"),
        (('title = "Lkw für"\n' + HEAD + TRAIN).encode("latin-1"), "another encoding"),
        (b"\x7fELF\x00\x01\x02\xff", "binary"),
        (HEAD.encode() + b"#" * 300_000, "too large"),
        (b"a = 1\nb = 2\na = 3\n", "stands twice"),
        (b"[a]\nx = 1\n[a]\n", "stands twice"),
        (b"a = yes\n", "not valid TOML"),
        (b'a = "x\x01"\n', "not valid TOML"),
        (b"a = " + b"[" * 2000, "nested too deeply"),
        (b"a = " + b"[" * 50 + b"]" * 50, "nested too deeply"),
        (b"a" + b".a" * 120_000 + b" = 1", "too many parts"),
        (b"a = " + b"1" * 5000, "too many digits"),
    ],
)
def test_files_that_are_no_toml_are_explained(data, word):
    """Wrong encodings are named, and every way to break TOML leads to one sentence."""
    with pytest.raises(UserError, match=word):
        draft(data)


def test_very_many_mistakes_are_counted():
    """A file with thousands of mistakes leads to a message that a person can read, and a chat can carry."""
    with pytest.raises(UserError) as caught:
        draft(HEAD + "".join(f"k{number} = 1\n" for number in range(5000)) + TRAIN)
    assert len(caught.value.problems) == 51
    assert "4950 more problems" in str(caught.value)
