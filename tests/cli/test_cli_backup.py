"""`backup …`: what people and programs see, with the daemon and without, and what the exit codes say."""

from __future__ import annotations

import json
import threading

import pytest
from click.testing import CliRunner

from supervisor.cli import backup_waiting
from supervisor.cli.program import program
from supervisor.core import actions, events
from supervisor.core.backups.model import TargetPolicy
from supervisor.core.model import Policy


@pytest.fixture
def server(daemon):
    """Two targets; a run that has kept epoch 3."""
    policy = Policy(max_running=4, server="test", backups=(TargetPolicy(name="nas"), TargetPolicy(name="oss")))
    daemon.put(events.Configured(at=daemon.clock.now(), policy=policy))
    run_id = daemon.launch("truck")
    daemon.progress(run_id, 3, 3)
    daemon.put(events.Kept(at=daemon.clock.now(), run=run_id, attempt=1, epoch=3, file="epoch3.pt"))
    return daemon


class Hands:
    """Somebody who carries out what is ordered, one answer for each kind of action."""

    def __init__(self, daemon, **answers):
        self.daemon, self.answers, self.ended = daemon, answers, threading.Event()
        self.done = set()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        """Answer until the test ends."""
        while not self.ended.wait(0.01):
            with self.daemon.lock:
                pending = self.daemon.journal.pending()
            for action in pending:
                name = type(action).__name__
                if name in self.answers and action.key not in self.done:
                    self.done.add(action.key)
                    kind, fields = self.answers[name]
                    run = {"run": action.run} if name == "BackUp" else {}
                    at = self.daemon.clock.now()
                    self.daemon.put(kind(at=at, target=action.target, answers=action.key, **run, **fields))

    def close(self):
        """No more."""
        self.ended.set()
        self.thread.join()


@pytest.fixture
def hands(server):
    """Makes Hands that are closed at the end."""
    made = []

    def make(**answers):
        made.append(Hands(server, **answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


ARRIVED = (events.BackedUp, {"snapshot": "snap-1", "epoch": 3, "kept_epoch": 3, "sent_bytes": 2048, "sent_files": 3})
PROVEN = (
    events.Drilled,
    {"run": "truck@1", "snapshot": "snap-1", "ok": True, "loaded": True, "epoch": 3, "epoch_wanted": 3, "trained": True,
     "metric": 0.41, "metric_wanted": 0.41, "loss": 1.5, "seconds": 9.5},
)  # fmt: skip


# ---- looking
def test_the_list_for_people(server, cli, hands):
    """Targets, what of which run lies there, what was proven, and what is wrong with what to do."""
    hands(BackUp=ARRIVED, Drill=PROVEN)
    assert cli("backup", "run", "truck", "--to", "nas", "--wait").exit_code == 0
    assert cli("backup", "drill", "nas").exit_code == 0
    server.put(events.BackupFailed(at=server.clock.now(), target="oss", cause="full", text="ENOSPC"))
    text = cli("backup", "ls").stdout
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][:2] == ["TARGET", "STATE"]
    assert lines[1][:2] == ["nas", "ok"]
    assert lines[2][:2] == ["oss", "trouble"]
    assert any(line[:5] == ["truck", "RUNNING", "3", "nas", "epoch"] and line[-1] == "covered" for line in lines)
    assert "last proven restore" in text
    assert "of truck at epoch 3 from nas" in text
    assert "oss: has no room (ENOSPC)" in text
    assert "fix: free space on backup target oss" in text
    assert "\x1b" not in text


def test_the_list_for_programs_and_for_one_run(server, cli):
    """--json has a version; a name shows that run, and one that is unknown exits 5."""
    view = json.loads(cli("backup", "ls", "truck", "--json").stdout)
    assert (view["version"], [run["name"] for run in view["runs"]]) == (1, ["truck"])
    done = cli("backup", "ls", "truk")
    assert done.exit_code == 5
    assert "did you mean truck" in done.stderr


def test_without_targets_the_list_says_what_is_missing(daemon, cli):
    """And orders are refused with exit code 4."""
    assert "there is no [[backup]]" in cli("backup", "ls").stdout
    done = cli("backup", "run")
    assert done.exit_code == 4
    assert "there is no [[backup]]" in done.stderr


def test_the_list_works_without_the_daemon(server):
    """From the journal, and it says so."""
    config = server.write_config()
    server.api.stop()
    done = CliRunner().invoke(program, ["backup", "ls", "--config", str(config)])
    assert done.exit_code == 0
    assert "truck" in done.stdout
    assert "daemon is not running" in done.stderr
    server.make()


def test_other_verbs_show_backups_where_there_are_targets(server, cli, hands):
    """A column in `ls`, lines in `show` and `status`."""
    assert "behind" in cli("ls").stdout
    hands(BackUp=ARRIVED)
    cli("backup", "run", "truck", "--wait")
    assert "✓" in cli("ls").stdout
    assert "nas: epoch 3" in cli("show", "truck").stdout
    status = cli("status").stdout
    assert "backup nas: last backup" in status
    assert "no restore was proven yet" in status


def test_other_verbs_say_nothing_where_there_are_none(daemon, cli):
    """A server without targets looks as before."""
    daemon.launch("truck")
    assert "BACKUP" not in cli("ls").stdout
    assert "backup" not in cli("status").stdout


# ---- ordering
def test_a_backup_is_ordered_and_what_happens_next_is_told(server, cli):
    """At once, without waiting."""
    done = cli("backup", "run", "truck")
    assert done.exit_code == 0
    assert done.stdout == "truck is sent to nas and oss now; `backup ls` shows how far it is\n"
    assert json.loads(cli("backup", "run", "truck", "--json").stdout)["done"]


def test_waiting_for_a_backup_tells_each_result(server, cli, hands):
    """Exit code 0 when all arrived."""
    hands(BackUp=ARRIVED)
    done = cli("backup", "run", "truck", "--wait", "--json")
    assert done.exit_code == 0
    assert {one["target"] for one in json.loads(done.stdout)["results"]} == {"nas", "oss"}
    assert "truck@1: epoch 3 lies verified on oss; 2.0 KiB were sent" in done.stderr


def test_a_backup_that_fails_exits_1_with_what_to_do(server, cli, hands):
    """With the name of the run in the command."""
    hands(BackUp=(events.BackupFailed, {"cause": "shrunken", "text": "12 files are gone"}))
    done = cli("backup", "run", "truck", "--to", "nas", "--wait")
    assert done.exit_code == 1
    assert "12 files are gone" in done.stderr
    assert "`backup run truck --accept-loss` agrees to it" in done.stderr


def test_a_backup_that_our_own_end_interrupted_is_waited_for(server, cli, hands):
    """It is tried again by itself."""
    helper = hands(BackUp=(events.BackupFailed, {"cause": "stopped", "text": "the daemon ends"}))

    def later():
        helper.answers = {"BackUp": ARRIVED}
        server.clock.at += 60
        server.put(events.TimePassed(at=server.clock.now()))

    timer = threading.Timer(0.2, later)
    timer.start()
    done = cli("backup", "run", "truck", "--to", "nas", "--wait")
    timer.join()
    assert done.exit_code == 0
    assert "interrupted" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--accept-loss"], 2, "name the run"),
        (["run", "car"], 5, "there is no run named car"),
        (["run", "truck", "--to", "nsa"], 5, "did you mean nas"),
        (["verify", "nsa"], 5, "did you mean nas"),
        (["drill", "nas"], 4, "no checkpoint of any run lies on nas yet"),
        (["drill", "nas", "--hurry"], 2, "No such option"),
    ],
)
def test_exit_codes(server, cli, arguments, code, words):
    """Those of the contract."""
    done = cli("backup", *arguments)
    assert done.exit_code == code
    assert words in done.stderr


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"files": 7, "bytes": 2048}, (0, "7 files (2.0 KiB) on nas were read again: all are as stored")),
        ({"files": 7, "damaged": ("x",)}, (1, "1 are damaged, such as x")),
        ({"cause": "absent", "text": "no folder"}, (75, "nas could not be read again")),
    ],
)
def test_a_verification(server, cli, hands, fields, expected):
    """0 whole, 1 damaged, 75 not to be asked."""
    hands(VerifyBackup=(events.BackupVerified, fields))
    done = cli("backup", "verify", "nas", "--whole", "--wait")
    assert done.exit_code == expected[0]
    assert expected[1] in done.stderr


# ---- rehearsing
@pytest.fixture
def backed_up(server, cli, hands):
    """The run lies on nas."""
    helper = hands(BackUp=ARRIVED)
    cli("backup", "run", "truck", "--to", "nas", "--wait")
    helper.close()
    return server


def test_a_rehearsal_waits_and_tells_what_was_proven(backed_up, cli, hands):
    """For programs: loaded, trained, epoch and metric with those of the manifest, and how long it took."""
    hands(Drill=PROVEN)
    done = cli("backup", "drill", "--json")
    view = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (view["loaded"], view["trained"], view["epoch"], view["epoch_wanted"]) == (True, True, 3, 3)
    assert (view["metric"], view["metric_wanted"], view["seconds"], view["run"]) == (0.41, 0.41, 9.5, "truck@1")
    text = cli("backup", "drill", "nas", "--run", "truck").stdout
    assert [line.split() for line in text.splitlines()][:5] == [
        ["loaded", "yes"], ["proven", "yes"], ["trained", "yes"], ["epoch", "3"], ["metric", "0.41"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"ok": False, "run": "truck@1", "epoch": 2, "epoch_wanted": 3, "text": "another epoch"},
            (1, "2, and 3 was backed up"),
        ),
        ({"ok": False, "cause": "unreachable", "text": "no route"}, (75, "trained   no")),
        (
            {"ok": True, "loaded": True, "epoch": 3, "epoch_wanted": 3, "untrained": "no loss"},
            (0, "no (no loss)"),
        ),
        (
            {"ok": False, "unable": True, "run": "truck@1", "epoch": 3, "text": "not proven: no interpreter"},
            (1, "loaded    no"),
        ),
    ],
)
def test_a_rehearsal_that_does_not_work(backed_up, cli, hands, fields, expected):
    """1 if it was found not to work or nobody could load it, 75 if the target could not be asked."""
    hands(Drill=(events.Drilled, fields))
    done = cli("backup", "drill", "nas")
    assert done.exit_code == expected[0]
    assert expected[1] in done.stdout


def test_a_rehearsal_need_not_be_waited_for(backed_up, cli):
    """--no-wait only orders it."""
    done = cli("backup", "drill", "nas", "--no-wait")
    assert (done.exit_code, done.stdout) == (0, "a restore of a run that chance chooses from nas is rehearsed now\n")
    assert any(isinstance(one, actions.Drill) for one in backed_up.journal.pending())


def test_waiting_outlives_the_daemon():
    """While it is exchanged nothing is lost: the answer is found in the journal of the next one."""
    from supervisor.cli.failures import NoDaemon

    class Exchanged:
        looks = 0

        def get(self, path, *, after=0):
            if path == "/v1/backups":
                return {"targets": [target_in_trouble(doing="truck")]}
            self.looks += 1
            if self.looks == 2:
                raise NoDaemon("nobody answers")
            found = [{"kind": "Drilled", "target": "nas", "ok": True, "run": ""}] if self.looks == 3 else []
            return {"answers": found, "next": after + 1}

    slept = []
    taken = {"ordered": [{"verb": "drill", "target": "nas", "run": "", "not_of": ""}], "after": 7}
    results, code = backup_waiting.wait_for(Exchanged(), taken, sleep=slept.append)
    assert (len(results), code, len(slept)) == (1, 0, 2)


def target_in_trouble(**fields):
    """As GET /v1/backups shows one."""
    return {
        "name": "nas", "doing": None, "cause": "unreachable", "retry_at": 99.0, "due": [], "verify_due": False,
        "drill_due": True, "todo": "look at the network", "text": "cannot be reached, tried again in 1 h", **fields,
    }  # fmt: skip


class Answering:
    """The daemon's two lists."""

    def __init__(self, *targets, found=()):
        self.targets, self.found = targets, list(found)

    def get(self, path, *, after=0):
        """One look."""
        if path == "/v1/backups":
            return {"targets": list(self.targets)}
        found, self.found = self.found, []
        return {"answers": found, "next": after}


def ordered(*rows):
    """What the daemon says that it took."""
    names = ("verb", "target", "run", "not_of")
    return {"ordered": [dict(zip(names, row, strict=True)) for row in rows], "after": 0}


def test_a_target_in_trouble_is_not_waited_for(capsys):
    """Nobody knows how long that lasts: 75, with the cause and what to do; what came before is told."""
    arrived = {"kind": "BackedUp", "target": "oss", "run": "truck@1", "epoch": 3}
    client = Answering(target_in_trouble(), target_in_trouble(name="oss", doing="truck"), found=[arrived])
    taken = ordered(("run", "oss", "truck@1", ""), ("drill", "nas", "", ""))
    results, code = backup_waiting.wait_for(client, taken, sleep=lambda _s: pytest.fail("it waits"))
    assert [one["kind"] for one in results] == ["BackedUp", "Left"]
    assert (code, results[1]["cause"]) == (75, "unreachable")
    told = capsys.readouterr().err
    assert "epoch 3 lies verified on oss" in told
    assert "nas cannot be reached, tried again in 1 h" in told
    assert "fix: look at the network" in told


def test_a_try_that_fails_ends_the_waiting(server, cli, hands):
    """`backup run` to a dead target: 75 at once for all that was ordered, not after its next try."""
    hands(BackUp=(events.BackupFailed, {"cause": "auth", "text": "Permission denied (publickey)"}))
    done = cli("backup", "run", "--to", "nas", "--wait", "--json")
    assert done.exit_code == 75
    assert {one["cause"] for one in json.loads(done.stdout)["results"]} == {"auth"}
    assert "add the public key" in done.stderr


def test_an_order_that_nothing_is_left_of_is_not_waited_for():
    """A run that was removed meanwhile, say."""
    client = Answering(target_in_trouble(cause=None, retry_at=None, drill_due=False))
    assert backup_waiting.wait_for(client, ordered(("run", "nas", "truck@1", "")), sleep=pytest.fail)[1] == 75


def test_what_was_under_way_before_is_no_answer():
    """The part that the schedule reads again is not the whole that a person ordered."""
    old = {"kind": "BackupVerified", "target": "nas", "answers": "server/verify-1/nas", "files": 1}
    new = {"kind": "BackupVerified", "target": "nas", "answers": "server/verify-2/nas", "files": 9}
    client = Answering(target_in_trouble(cause=None, retry_at=None, doing="the journal"), found=[old, new])
    results, code = backup_waiting.wait_for(
        client, ordered(("verify", "nas", "", "server/verify-1/nas")), sleep=pytest.fail
    )
    assert (results, code) == ([new], 0)


@pytest.mark.parametrize("verb", ["ls", "run", "verify", "drill"])
def test_each_verb_has_help_with_an_example(verb):
    """As all verbs have."""
    done = CliRunner().invoke(program, ["backup", verb, "--help"])
    assert done.exit_code == 0
    assert f"yolo-supervisor backup {verb}" in done.stdout.split("Examples:")[1]


def test_help_of_the_group_lists_all_verbs():
    """`restore` too, which is imported only then."""
    text = CliRunner().invoke(program, ["backup", "--help"]).stdout
    assert all(f"\n  {verb} " in text for verb in ("ls", "run", "verify", "drill", "restore"))


def test_a_target_in_trouble_stands_among_the_incidents(server, cli, hands):
    """With its cause, the next try, and what can be done; for programs too."""
    hands(BackUp=(events.BackupFailed, {"cause": "auth", "text": "Permission denied (publickey)"}))
    cli("backup", "run", "--to", "nas", "--wait")
    done = cli("incidents", "--open")
    assert "backup targets:" in done.stdout
    text = " ".join(done.stdout.split())
    assert "nas: refuses our key" in text
    assert "next try in" in text
    assert "you can: add the public key to the account's authorized_keys on backup target nas" in text
    [found] = json.loads(cli("incidents", "--json").stdout)["targets"]
    assert (found["target"], found["cause"]) == ("nas", "auth")


def test_the_help_s_examples_name_targets_not_paths():
    """What is typed from there works."""
    text = CliRunner().invoke(program, ["backup", "--help"]).stdout
    assert "--from nas" in text
    assert "--from /" not in text
