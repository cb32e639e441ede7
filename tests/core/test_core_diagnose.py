"""Evidence → Cause: the surest finder decides, the first failure in time wins, and the place is told."""

from __future__ import annotations

import pytest
from bench import Bench
from causes import known, sign, signs
from msgspec.structs import replace

from supervisor.core import events
from supervisor.core.diagnosis import diagnose as finders
from supervisor.core.diagnosis.diagnose import CODES, NO_ROOM_BYTES, Diagnosis, diagnose
from supervisor.core.diagnosis.evidence import Disk, Evidence
from supervisor.core.diagnosis.tables import CAUSES
from supervisor.core.model import Phase, Run, StopOrder

SILENT = Evidence()


@pytest.fixture
def run() -> Run:
    """A run whose attempt has just ended with exit code 1."""
    bench = Bench()
    return bench.bring_to(Phase.COOLING)


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Two causes and one rule of each kind, whatever the real tables say."""
    for name in ("early", "later", "hang"):
        known(monkeypatch, "backoff", "hold", name=name)
    kinds = {"an-echo": "echo", "an-alarm": "alarm", "an-info": "info", "a-rule": "cause"}
    monkeypatch.setattr(finders, "_KINDS", kinds)


def judged(run: Run, evidence: Evidence = SILENT, **event: object) -> Diagnosis:
    """The diagnosis of an attempt that left this evidence."""
    fields = {"at": 1.0, "run": run.id, "attempt": 1, "finished": False, "reason": "exit code 1", **event}
    return diagnose(run, events.Examined(evidence=evidence, **fields))


def ended(run: Run, **how: object) -> Run:
    """The run with another end of its attempt."""
    return replace(run, attempt=replace(run.attempt, **{"code": None, **how}))


HUNG = StopOrder(how="kill", then=Phase.QUEUED, by="x", reason="asked", cause="hang", seen="nothing moved for 9m")
FULL = Disk(path="/runs", what="runs", free_bytes=NO_ROOM_BYTES - 1)

#: Everything at once, the surest first: taking one after the other away must bring forth the next.
LAYERS = [
    ("hang", {"order": HUNG}),
    ("mount-gone", {"unmounted": ("/data",)}),
    ("checkpoint-refused", {"code": 65}),
    ("host-oom", {"oom_kills": 1}),
    ("early", {"signs": (sign("early"), sign("later"))}),
    ("disk-full", {"disks": (FULL,)}),
    ("code-error", {"error": "ValueError: x"}),
    ("killed", {"signal": 9}),
]


@pytest.mark.parametrize("first", range(len(LAYERS) + 1))
def test_the_surest_finder_decides(run, first):
    """Our own order, a mount that is gone, the runner's code, an OOM kill, a line, a full disk, an exception, a signal.

    What comes before another decides even if everything that comes after it is there as well; then echoes; then nothing.
    """
    there = {key: value for _, layer in LAYERS[first:] for key, value in layer.items()}
    how = {key: there.pop(key) for key in ("code", "signal") if key in there}
    run = replace(ended(run, **how), stop=there.pop("order", None))
    echo = sign("later", rule="an-echo")
    found = judged(run, Evidence(**{**there, "signs": (*there.get("signs", ()), echo)}))
    assert found.cause.name == (LAYERS[first][0] if first < len(LAYERS) else "later")


def test_nothing_seen_is_unknown(run):
    """Where nothing says why, that is said; the exit itself is what was seen."""
    found = judged(run, reason="exit code 1")
    assert (found.cause.name, found.seen, found.named) == ("unknown", "exit code 1", False)


def test_the_first_failure_in_time_wins(run):
    """Later lines are what follows from it; the line and its number are kept."""
    evidence = Evidence(signs=(sign("early", line="first", number=7), sign("later", line="second", number=8)))
    found = judged(run, evidence)
    assert (found.cause.name, found.seen, found.line) == ("early", "first", 7)


def test_an_echo_never_wins_over_a_cause_and_info_is_no_cause(run):
    """Echoes in front of the cause do not hide it; a line that is only worth telling is never taken for a cause."""
    echo, info = sign("later", rule="an-echo"), sign("later", rule="an-info")
    assert judged(run, Evidence(signs=(info, echo, sign("early")))).cause.name == "early"
    assert judged(run, Evidence(signs=(info, echo))).cause.name == "later"
    assert judged(run, Evidence(signs=(info,))).cause.name == "unknown"


def test_an_alarm_that_ended_by_itself_is_a_cause(run):
    """A process that was said never to end has ended: the line still names why, where no other does."""
    alarm = sign("later", rule="an-alarm")
    assert judged(run, Evidence(signs=(alarm,))).cause.name == "later"
    assert judged(run, Evidence(signs=(alarm, sign("early")))).cause.name == "early"


def test_a_rule_of_the_user_wins_and_its_remedy_comes_first(run):
    """A rule that is in no table is the user's: its cause counts, and its step is tried before the cause's plan."""
    own = sign("early", rule="ours", remedy="wait-disk*2")
    found = judged(run, Evidence(signs=(own, sign("later"))))
    assert found.cause.name == "early"
    assert found.steps == ("wait-disk", "wait-disk", *CAUSES["early"].steps)


def test_a_cause_that_only_the_user_knows(run):
    """It has the user's own words and is tried again as often as a failure that nobody understands."""
    own = sign("our-storage", rule="ours", means="our storage was switched off")
    found = judged(run, Evidence(signs=(own,)))
    assert (found.cause.name, found.cause.means) == ("our-storage", "our storage was switched off")
    assert found.steps == CAUSES["unknown"].steps
    assert found.named


@pytest.mark.parametrize(("code", "name"), CODES.items())
def test_the_runners_codes_name_their_cause(run, code, name):
    """They are the contract's, for our runner only: a command's exit codes are its own."""
    assert judged(ended(run, code=code)).cause.name == name
    command = replace(run, job=replace(run.job, train=None, command=("x",)))
    assert judged(ended(command, code=code)).cause.name == "unknown"


def test_a_missing_input_may_be_named_more_closely(run):
    """Exit code 66 says that something is missing; a line that says what it was is more."""
    assert judged(ended(run, code=66), signs("early")).cause.name == "early"
    assert judged(ended(run, code=65), signs("early")).cause.name == "checkpoint-refused"


@pytest.mark.parametrize("number", [1, 2, 15])
def test_other_signals_mean_that_somebody_asked_it_to_end(run, number):
    """And who sent it is told where that is known."""
    found = judged(ended(run, signal=number), Evidence(sender="pid 7 (systemd)"))
    assert found.cause.name == "terminated"
    assert "sent by pid 7 (systemd)" in found.seen


@pytest.mark.parametrize("number", [4, 6, 7, 8, 11])
def test_crashes_of_compiled_code(run, number):
    """SIGILL, SIGABRT, SIGBUS, SIGFPE and SIGSEGV."""
    assert judged(ended(run, signal=number)).cause.name == "native-crash"


@pytest.mark.parametrize(
    "disk",
    [
        {"free_bytes": 0},
        {"free_bytes": 10**12, "free_inodes": 0},
        {"free_bytes": 10**12, "quota_left_bytes": 0},
    ],
)
def test_no_room_is_no_room_of_any_kind(run, disk):
    """Bytes, inodes or quota."""
    full = Disk(path="/runs", what="runs", **disk)
    assert judged(run, Evidence(disks=(full,))).cause.name == "disk-full"


def test_what_is_not_known_is_no_cause(run):
    """No count of OOM kills, of inodes or of a quota is not a count of nothing left; and no kills are no cause."""
    disk = Disk(path="/runs", what="runs", free_bytes=10**12)
    assert judged(run, Evidence(disks=(disk,), oom_kills=None)).cause.name == "unknown"
    assert judged(run, Evidence(disks=(disk,), oom_kills=0)).cause.name == "unknown"


def test_an_oom_kill_decides_only_what_it_explains(run):
    """The count is the cgroup's, which others may share: a death that a line or an exception explains is not blamed on it.

    A line that only follows from a kill, a SIGKILL, or nothing at all: then it was the kernel.
    """
    kills = {"oom_kills": 1}
    assert judged(run, signs("early", **kills)).cause.name == "early"
    assert judged(run, Evidence(error="ValueError: x", **kills)).cause.name == "code-error"
    assert judged(run, signs("worker-killed", **kills)).cause.name == "host-oom"
    assert judged(ended(run, signal=9), signs("early", **kills)).cause.name == "host-oom"
    assert judged(run, Evidence(**kills)).cause.name == "host-oom"


def test_a_full_disk_matters_only_where_something_is_written(run):
    """A data set fills its disk to the last byte, and that ends nothing."""
    full = Disk(path="/data", what="data", free_bytes=0)
    assert judged(run, Evidence(disks=(full,))).cause.name == "unknown"


def test_the_kernels_own_line_is_what_was_seen(run):
    """An OOM kill is told with the kernel's line, else with the count."""
    assert judged(run, Evidence(oom_kills=2, kernel=("Killed process 9 (python)",))).seen == "Killed process 9 (python)"
    assert "2 times" in judged(run, Evidence(oom_kills=2)).seen


def test_a_hang_is_told_in_the_detectors_words(run):
    """What the hang detector saw is the evidence, not who else wanted the attempt to end."""
    assert judged(replace(run, stop=HUNG)).seen == "nothing moved for 9m"


# ---- place and mark
@pytest.mark.parametrize(
    ("where", "place"),
    [
        ({"epoch": 3, "batch": 7, "phase": "train"}, "epoch 3, batch 7"),
        ({"epoch": 3, "phase": "val"}, "epoch 3"),
        ({"phase": "scan"}, "scan"),
        ({}, ""),
    ],
)
def test_the_place_is_told_as_far_as_it_is_known(run, where, place):
    """Epoch and batch, the epoch, or what the trainer was doing."""
    assert judged(run, signs("early", **where)).place == place


def test_the_mark_needs_an_exact_place(run):
    """Two failures at about the same place are no proof of anything: without the exact batch there is no mark."""
    about = {"epoch": 3, "batch": 7}
    assert judged(run, signs("early", **about)).mark == ""
    exact = judged(run, signs("early", **about, exact=True)).mark
    assert exact
    assert exact != judged(run, signs("early", epoch=3, batch=8, exact=True)).mark
    assert exact != judged(run, signs("later", **about, exact=True)).mark


def test_an_exception_is_marked_by_where_it_was_raised(run):
    """Error and site are exact enough in the same epoch; another line of code or another epoch is another place."""

    def mark(site: str, epoch: int) -> str:
        return judged(run, Evidence(error="ValueError: x", site=site, epoch=epoch)).mark

    assert mark("a.py:1 in f", 2) == mark("a.py:1 in f", 2) != ""
    assert len({mark("a.py:1 in f", 2), mark("a.py:2 in f", 2), mark("a.py:1 in f", 3), mark("", 2)}) == 4
    assert mark("", 2) == ""


def test_every_cause_that_the_finders_name_is_in_the_table():
    """A name that nobody can explain would be tried again like a failure that is not understood."""
    names = {*CODES.values(), "unknown", "mount-gone", "host-oom", "disk-full", "code-error", "killed", "terminated"}
    assert names | {"native-crash", "not-launched", "hang"} <= set(CAUSES)


def test_an_exception_says_where_in_the_log_it_stands(run):
    """The line of the log is told for an error of the code as for any other."""
    found = judged(run, Evidence(error="ValueError: x", error_line=812, site="/a.py:3 in f"))
    assert (found.cause.name, found.line) == ("code-error", 812)


def test_a_limit_of_processor_time_is_no_persons_wish(run):
    """SIGXCPU comes from the kernel, and which limit it was is told."""
    found = judged(ended(run, signal=24))
    assert (found.cause.name, found.seen) == ("cpu-time-limit", "SIGXCPU")
    assert found.steps == CAUSES["terminated"].steps


def test_a_users_own_advice_is_told(run):
    """`fix` of a [[rule]] stands for a cause of its own, and before the table's words for one of the table."""
    own = sign("licence", rule="mine", means="no seats", fix="ask Ann")
    assert judged(run, Evidence(signs=(own,))).cause.fix == "ask Ann"
    assert judged(run, Evidence(signs=(replace(own, cause="early"),))).cause.fix == "ask Ann"
    found = judged(run, Evidence(signs=(sign("licence", rule="mine", means="no seats"),)))
    assert (found.cause.title, found.cause.means) == ("licence", "no seats")
