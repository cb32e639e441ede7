"""`why`, `incidents` and `what-if`: what went wrong, for people and for programs, with the daemon and without."""

from __future__ import annotations

import json

import pytest

from supervisor.core import events
from supervisor.core.diagnosis.evidence import Evidence, Sign
from supervisor.core.job import Restart
from tests.cli.conftest import process
from tests.cli.test_cli_reading import on_terminal

LINE = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 23.64 GiB in all, 1.2 free."


def relaunch(daemon, run_id):
    """The backoff is over and the next attempt runs."""
    daemon.clock.at += 700
    daemon.put(events.TimePassed(at=daemon.clock.now()))
    who = {"at": daemon.clock.now(), "run": run_id, "attempt": daemon.world.live[run_id].attempts}
    daemon.put(events.Prepared(**who, start="fresh"))
    started = {"pid": 11, "shim_pid": 10, "boot": daemon.world.boot, "started_at": daemon.clock.now()}
    daemon.put(events.Launched(**who, **started))


@pytest.fixture
def troubled(daemon):
    """One run that failed once and recovered, and one that is held."""
    daemon.allow(2)
    run_id = daemon.launch("truck", restart=Restart(no_progress=5))
    sign = Sign(rule="cuda-oom", cause="cuda-oom", line=LINE, number=1234)
    evidence = Evidence(signs=(sign,), epoch=1, batch=34)
    cost = {"moved_at": daemon.clock.now() - 2, "seconds": {"unsaved": 61.0}}
    daemon.end(run_id, finished=False, code=1, evidence=evidence, **cost)
    relaunch(daemon, run_id)
    daemon.progress(run_id, 1, 1)
    daemon.end(daemon.launch("car"), finished=False, code=66, reason="data.yaml is missing")
    return daemon


def test_why_tells_what_was_seen_with_its_place(troubled, cli):
    """`why` names the log's line and where it stands, what it means, what was done, what it cost and what to do."""
    text = " ".join(cli("why", "truck").stdout.split())
    for part in (
        "attempt 1: the GPU's memory is full",
        LINE,
        "attempts/1/log line 1234, epoch 1, batch 34",
        "means The training asked for more memory",
        "of waiting",
        "1m1s of work done again",
        "stands recovered: epoch 1 is saved",
        "you can a smaller batch",
        "now: RUNNING",
    ):
        assert part in text, text


def test_why_of_a_held_run_says_what_can_be_done(troubled, cli):
    """A held run's incident is open, and the commands follow."""
    text = cli("why", "car").stdout
    assert "held, a person must act" in text
    assert "attempts/1/log" not in text  # no line of it told the cause
    assert "what to do:\n  yolo-supervisor resume car" in text


def test_why_without_incidents_tells_the_chain(daemon, cli):
    """A run that nothing went wrong with is told step by step, as `--events` does."""
    daemon.launch("calm")
    text = cli("why", "calm").stdout
    assert "new → PREPARING" in text
    assert text == cli("why", "calm", "--events").stdout == cli("why", "calm", "--all").stdout


def test_why_events_tells_the_chain_of_a_troubled_run(troubled, cli):
    """The full chain is not lost."""
    text = cli("why", "truck", "--events").stdout
    assert "RUNNING → COOLING" in text
    assert "you can" not in text


def test_why_for_programs_has_incidents_and_steps(troubled, cli):
    """--json keeps the steps and gains the incidents."""
    view = json.loads(cli("why", "truck", "--json").stdout)
    assert (view["version"], view["phase"]) == (1, "RUNNING")
    assert view["steps"][0]["kind"] == "JobAccepted"
    [incident] = view["incidents"]
    assert (incident["cause"], incident["line"], incident["state"]) == ("cuda-oom", 1234, "recovered")
    assert incident["cost"]["start_s"] == pytest.approx(2.0, abs=2)


def test_many_incidents_are_cut_to_the_newest(daemon, cli):
    """Of a long row of failures the newest ten are told, and where the others are."""
    run_id = daemon.launch("truck", restart=Restart(no_progress=50))
    for _ in range(12):
        daemon.end(run_id, finished=False, code=1)
        relaunch(daemon, run_id)
    done = cli("why", "truck")
    assert done.stdout.count("stands ") == 10
    assert "attempt 12:" in done.stdout
    assert "2 older incidents: `yolo-supervisor incidents truck`" in done.stderr


def test_incidents_lists_all_runs_newest_last(troubled, cli):
    """One line for each, in the order of time."""
    header, truck, car = cli("incidents").stdout.splitlines()
    assert header.split() == ["WHEN", "RUN", "TRY", "COST", "STATE", "WHAT"]
    assert truck.split()[2:4] == ["truck@1", "1"]
    assert "recovered" in truck
    assert "the GPU's memory is full → " in truck
    assert "held" in car


def test_incidents_can_be_chosen(troubled, cli):
    """By run, by openness, by time."""
    assert [line.split()[2] for line in cli("incidents", "truck").stdout.splitlines()[1:]] == ["truck@1"]
    assert [line.split()[2] for line in cli("incidents", "--open").stdout.splitlines()[1:]] == ["car@1"]
    assert cli("incidents", "truck", "--open").stdout == "no open incidents\n"
    view = json.loads(cli("incidents", "--since", "100w", "--json").stdout)
    assert [one["name"] for one in view["incidents"]] == ["truck", "car"]


def test_incidents_that_were_over_before_are_left_out(troubled, cli, monkeypatch):
    """--since counts back from now, and never hides what is open."""
    monkeypatch.setattr("time.time", lambda: troubled.clock.now() + 7200)
    view = json.loads(cli("incidents", "--since", "1h", "--json").stdout)
    assert [one["name"] for one in view["incidents"]] == ["car"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("incidents", "trukc"), 5, "did you mean truck"),
        (("incidents", "--since", "soon"), 2, "this is not a duration"),
        (("what-if", "--policy", "/nowhere.toml"), 2, "/nowhere.toml: No such file"),
    ],
)
def test_wrong_words_are_named(troubled, cli, arguments, code, text):
    """A wrong name, time or file ends with its exit code and says what was wrong."""
    done = cli(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert text in done.stderr


def test_a_server_without_incidents_says_so(daemon, cli):
    """Nothing to list is said in words."""
    assert cli("incidents").stdout == "no incidents\n"


def test_show_and_ls_name_the_last_incident(troubled, cli):
    """`show` tells the last incident in two lines; programs find the open one in `ls`."""
    lines = cli("show", "car").stdout.splitlines()
    place = next(index for index, line in enumerate(lines) if line.startswith("  incident"))
    assert "attempt 1: model or data are missing (open: held" in lines[place]
    assert lines[place + 1].strip() == "held for a person"
    rows = {row["name"]: row["incident"] for row in json.loads(cli("ls", "--json").stdout)["runs"]}
    assert rows == {"truck": "", "car": "model or data are missing"}


def test_what_stands_still_is_seen_in_the_list(daemon, cli):
    """A training that waits for a disk says so where its reason stands."""
    run_id = daemon.launch("bus")
    who = {"at": daemon.clock.now(), "run": run_id, "attempt": 1}
    daemon.put(events.HangSeen(**who, verdict="storage", text="waits for nas:/data"))
    assert "waits for nas:/data" in cli("ls").stdout
    lines = cli("why", "bus").stdout.splitlines()
    assert "waits for nas:/data" in next(line for line in lines if line.startswith("now: "))
    assert lines[-1] == "  look at the disk or the mount that it waits for: it goes on when that answers"
    told = " ".join(cli("incidents", "--open").stdout.split())
    assert "no open incidents bus stands still: waits for nas:/data. you can: look at the disk" in told


@pytest.mark.e2e
def test_incidents_are_read_from_the_journal_while_the_daemon_is_down(troubled):
    """Without the daemon `why` and `incidents` say the same, and that they are as old as the journal."""
    config = troubled.write_config()
    troubled.api.stop()
    for verb in (("why", "truck"), ("incidents",), ("incidents", "truck")):
        done = process("--config", config, *verb, "--json")
        assert done.returncode == 0, done.stderr
        view = json.loads(done.stdout)
        assert view["offline"] is True
        assert view["incidents"][0]["cause"] == "cuda-oom"
    assert process("--config", config, "incidents", "nobody").returncode == 5


@pytest.mark.e2e
def test_incidents_fit_a_terminal_and_are_coloured_only_there(troubled, cli):
    """No line is wider than the terminal; pipes get no escape sequences."""
    import re

    for verb in ("why", "incidents"):
        screen = on_terminal(["--socket", str(troubled.socket_path), verb, "truck"], {})
        plain = re.sub(r"\x1b\[[0-9;]*m", "", screen)
        assert "recovered  the GPU's memory" in plain or "attempt 1" in plain
        incident_lines = plain.partition("now: ")[0].splitlines()
        assert all(len(line) <= 80 for line in incident_lines), plain
        assert "\x1b" not in cli(verb, "truck").stdout
    assert "\x1b[1m" in on_terminal(["--socket", str(troubled.socket_path), "why", "truck"], {})


@pytest.mark.parametrize("columns", [60, 80])
def test_tables_can_be_read_on_narrow_terminals(troubled, columns):
    """What is not worth its room is left out: the heads of the others are whole, and what went wrong can be read."""
    for verb, words in (
        (["incidents"], ("WHAT", "the GPU's memory")),
        (["report"], ("GOOD", "FAILED")),
        (["ls"], ("EPOCH",)),
    ):
        text = on_terminal(["--socket", str(troubled.socket_path), *verb], {"NO_COLOR": "1"}, columns)
        head = text.splitlines()[0]
        assert "…" not in head, head
        assert all(word in text for word in words), text
        assert all(len(line) <= columns for line in text.splitlines()), text


# ---- what-if
@pytest.fixture
def what_if(troubled, cli):
    """Call `what-if` with a policy of this text."""
    config = troubled.write_config()

    def call(text, *arguments):
        path = troubled.root / "policy.toml"
        path.write_text(text)
        return cli("--config", config, "what-if", "--policy", path, *arguments)

    return call


def test_what_if_tells_what_would_have_differed(what_if):
    """The recorded decision, the other one, where knowledge ends, and the counts."""
    done = what_if("[defaults.restart]\nno_progress = 1\n")
    assert done.exit_code == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "truck@1 attempt 1: the GPU's memory is full" in text
    assert "would be held for a person: 1 failure" in text
    assert "the replay of this run ends here" in text
    assert "2 failures of 2 runs: 1 decided differently" in text
    assert "given up or held, where it went on: truck@1" in text
    assert "car@1" not in text.partition("2 failures")[0]


def test_what_if_tells_all_on_demand(what_if):
    """--all shows also what would have been decided the same; NAME only one run."""
    text = what_if("[defaults.restart]\nno_progress = 9\n", "car", "--all").stdout
    assert "car@1 attempt 1" in text
    assert "would be  the same" in text
    assert "truck" not in text


def test_what_if_for_programs(what_if):
    """--json has a version, the summary and every failure."""
    view = json.loads(what_if("[defaults.restart]\nno_progress = 1\n", "--json").stdout)
    assert (view["version"], view["summary"]["different"], len(view["failures"])) == (1, 1, 2)


def test_what_if_tries_rules_on_the_recorded_lines(what_if):
    """A [[rule]] of the file judges the lines that were recorded."""
    text = what_if('[[rule]]\nname = "full"\nmatch = "1.2 free"\ncause = "bad-job"\n').stdout
    assert "would be  held for a person" in text
    assert "[bad-job]" in text


@pytest.mark.parametrize(("limit", "text"), [("5m", "waiting saved: 7m"), ("never", "1 decided differently")])
def test_what_if_knows_the_limit_for_hangs(troubled, what_if, limit, text):
    """hang_after of the file is compared with the time after which a hang was recorded."""
    run_id = troubled.launch("bus")
    who = {"at": troubled.clock.now(), "run": run_id, "attempt": 1}
    troubled.put(events.HangSeen(**who, verdict="hung", phase="batches", quiet_s=720.0, text="no batch"))
    assert text in what_if(f'[defaults.restart]\nhang_after = "{limit}"\n', "bus").stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[server]\nname = "x"\n', "line 1, server: what-if replays only"),
        ("[defaults]\ngpus = 1\n", "line 2, defaults.gpus: what-if replays only"),
        ("[defaults.restart]\nno_progres = 1\n", "did you mean `no_progress`"),
        ("[defaults.restart]\nbackoff = 5\n", "a duration needs a unit"),
        ("defaults = 1\n", "this must be a table"),
        ("", "neither [defaults.restart] nor [[rule]]"),
        ("[defaults]\n", "neither [defaults.restart] nor [[rule]]"),
    ],
)
def test_what_if_refuses_what_it_does_not_replay(what_if, text, problem):
    """Nothing in the file is read and ignored: it is refused with its line."""
    done = what_if(text)
    assert (done.exit_code, done.stdout) == (2, "")
    assert problem in done.stderr


def test_what_if_leaves_the_journal_as_it_is(troubled, what_if):
    """Nothing is written."""
    before = troubled.journal.load()
    what_if("[defaults.restart]\nno_progress = 1\n")
    assert troubled.journal.load() == before


def test_the_job_files_own_keys_win(troubled, what_if):
    """A key that the job file itself names is not replaced by another configuration's; its other keys are."""
    data, path = b"restart = { no_progress = 5 }\n", "/jobs/own.toml"
    troubled.put(events.JobFileSeen(at=troubled.clock.now(), path=path, data=data, revision="own", owner=0))
    run_id = troubled.launch("own", revision="own", restart=Restart(no_progress=5, backoff_s=600.0))
    troubled.end(run_id, finished=False, code=1)
    policy = '[defaults.restart]\nno_progress = 1\nbackoff = "2s"\n'
    assert "0 decided differently, 1 only after another wait" in what_if(policy, "own").stdout
    assert "1 decided differently" in what_if(policy, "truck").stdout
