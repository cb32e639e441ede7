"""The failures of the past under another policy: what would have been decided differently, and where nobody knows."""

from __future__ import annotations

import json

import msgspec
import pytest

from supervisor.core import events
from supervisor.core.diagnosis import what_if
from supervisor.core.diagnosis.evidence import Evidence, Sign
from supervisor.core.diagnosis.tables import CAUSES, RULES, Rule
from supervisor.core.diagnosis.what_if import Other
from supervisor.core.job import Restart
from supervisor.core.model import Boot, Job, Policy, World
from supervisor.core.step import step
from supervisor.journal import HistoryRow

START_AT = 1_800_000_000.0
BOOT = Boot("boot", 1)
TRAIN = {"model": "/m.yaml", "data": "/d.yaml", "epochs": 100, "workers": 8}


class Past:
    """A daemon's life with one run: its events are decided by `step` and recorded as the journal does."""

    def __init__(self, **restart):
        self.now, self.world, self.rows = START_AT, World(), []
        self.put(events.DaemonStarted(at=self.now, pid=1, version="0", boot=BOOT))
        self.put(events.Configured(at=self.now, policy=Policy(max_running=1)))
        job = Job(name="truck", revision="aa", file="/jobs/truck.toml", train=TRAIN, restart=Restart(**restart))
        seen = events.JobFileSeen(at=self.now, path=job.file, data=b"", revision="aa", owner=0)
        self.put(seen)
        self.put(events.JobAccepted(at=self.now, path=job.file, job=job))

    @property
    def run(self):
        """The run as it stands."""
        return self.world.named("truck")

    def put(self, event, after_s=1.0):
        """Let an event happen."""
        self.now += after_s
        before = self.world.named("truck")
        self.world, _ = step(self.world, event, self.now)
        after = self.world.named("truck")
        changed = after is not None and after is not before
        self.rows.append(
            HistoryRow(
                seq=len(self.rows) + 1,
                at=self.now,
                kind=type(event).__name__,
                origin="",
                run=after.id if after is not None else "",
                phase_before=before.phase.value if changed and before is not None else "",
                phase_after=after.phase.value if changed else "",
                reason=after.reason if after is not None else "",
                body=msgspec.json.decode(msgspec.json.encode(event)),
                actions=(),
            ),
        )

    def who(self):
        """The fields of an event about the present attempt."""
        return {"at": self.now, "run": self.run.id, "attempt": self.run.attempts}

    def launch(self, from_epoch=0):
        """The attempt that is being prepared runs."""
        start = {"start": "resume", "checkpoint": "/last.pt"} if from_epoch else {"start": "fresh"}
        self.put(events.Prepared(**self.who(), **start, from_epoch=from_epoch))
        self.put(events.Launched(**self.who(), pid=11, shim_pid=10, boot=BOOT, started_at=self.now))

    def save(self, epoch):
        """An epoch is saved."""
        self.put(events.Progressed(**self.who(), epoch=epoch, epochs=100, saved_epoch=epoch))

    def die(self, *, lines=(), signs=(), code=1, **evidence):
        """The attempt ends with this end of its log."""
        self.put(events.AttemptExited(**self.who(), code=code, ended_at=self.now))
        self.put(events.AttemptCleared(**self.who()))
        seen = Evidence(signs=signs, **evidence)
        self.put(events.Examined(**self.who(), finished=False, evidence=seen, log_tail=lines))

    def wait(self):
        """The backoff is over."""
        self.put(events.TimePassed(at=self.now), after_s=700.0)

    def fail(self, times, **how):
        """So many attempts die, each after its launch."""
        for _ in range(times):
            self.launch()
            self.die(**how)
            self.wait()

    def replay(self, since_at=0.0, **other):
        """What another policy makes of it."""
        return what_if.replay(self.run, self.rows, (), Other(**other), since_at)


def phases(replay):
    """Under both policies, failure by failure."""
    return [(one.before.phase, one.after.phase) for one in replay.failures]


def test_the_same_policy_differs_in_nothing():
    """Replayed under its own policy every decision is the recorded one."""
    past = Past(no_progress=3)
    past.fail(3, lines=("boom",))
    replay = past.replay(restart={"no_progress": 3})
    assert phases(replay) == [("COOLING", "COOLING"), ("COOLING", "COOLING"), ("FAILED", "FAILED")]
    assert all(one.differs == "" and one.recorded and not one.end for one in replay.failures)


def test_a_more_patient_policy_goes_on():
    """Where the run was given up and would have gone on, that is said, and that nobody knows what came then."""
    past = Past(no_progress=3)
    past.fail(3)
    last = past.replay(restart={"no_progress": 5}).failures[-1]
    assert (last.before.phase, last.after.phase, last.differs) == ("FAILED", "COOLING", "decision")
    assert "not known" in last.end


def test_a_stricter_policy_ends_the_replay_where_it_gives_up():
    """Failures after the first difference that decides about another attempt are counted as unknown, not compared."""
    past = Past(no_progress=4)
    past.fail(4)
    replay = past.replay(restart={"no_progress": 2})
    assert phases(replay) == [("COOLING", "COOLING"), ("COOLING", "FAILED")]
    assert replay.unknown == 2


def test_progress_refills_the_other_policy_too():
    """A policy that gives up after one failure without progress goes on as long as epochs are saved in between."""
    past = Past(no_progress=3)
    for epoch in (1, 2, 3):
        past.launch(from_epoch=epoch - 1)
        past.save(epoch)
        past.die()
        past.wait()
    replay = past.replay(restart={"no_progress": 1})
    assert [one.differs for one in replay.failures] == ["", "", ""]


def test_another_backoff_is_another_wait_and_no_other_decision():
    """Only the time differs: the seconds that it saves are summed."""
    past = Past(no_progress=5, backoff_s=600.0)
    past.fail(2)
    replay = past.replay(restart={"backoff_s": 60.0})
    assert [one.differs for one in replay.failures] == ["delay", "delay"]
    waited = sum(one.before.delay_s - one.after.delay_s for one in replay.failures)
    summary = what_if.view([replay], past.now)["summary"]
    assert (summary["different"], summary["other_wait"]) == (0, 2)
    assert summary["saved_s"] == pytest.approx(waited)
    assert waited > 0


RULE = Rule(name="nfs-blip", match="Stale file handle", cause="bad-job")


def test_a_new_rule_is_tried_on_the_recorded_lines():
    """A rule that would have known a line of the log's end changes cause and decision."""
    past = Past()
    past.fail(1, lines=("epoch 3", "OSError: Stale file handle"))
    [failure] = past.replay(rules=(RULE,)).failures
    assert (failure.before.cause, failure.after.cause) == ("unknown", "bad-job")
    assert (failure.after.phase, failure.differs) == ("HELD", "decision")


def test_rules_of_the_user_give_way_to_those_of_the_file():
    """A sign of a rule that the other policy does not have is none there; those of the table stay."""
    past = Past()
    own = Sign(rule="mine", cause="bad-job", line="odd", number=3)
    past.fail(1, signs=(own,), lines=("odd", "end"))
    [failure] = past.replay(rules=()).failures
    assert (failure.before.phase, failure.after.phase) == ("HELD", "COOLING")
    oom = Sign(rule="cuda-oom", cause="cuda-oom", line="CUDA out of memory. Tried to allocate 2 GiB", number=9)
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, evidence=Evidence(signs=(oom, own)))
    assert [sign.rule for sign in what_if.with_rules(event, ()).evidence.signs] == ["cuda-oom"]


def test_the_order_of_the_log_is_kept():
    """A line of the end that a new rule knows does not overtake a sign that came before it, but those after it."""
    early = Sign(rule="cuda-oom", cause="cuda-oom", line="CUDA out of memory", number=9)
    late = Sign(rule="cuda-oom", cause="cuda-oom", line="CUDA error: c", number=99, rank=1)
    evidence = Evidence(signs=(early, late))
    tail = ("a", "[rank1]: Stale file handle", "[rank1]: CUDA  error: c")
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, evidence=evidence, log_tail=tail)
    signs = what_if.with_rules(event, (RULE,)).evidence.signs
    assert [(sign.rule, sign.number) for sign in signs] == [("cuda-oom", 9), ("nfs-blip", 0), ("cuda-oom", 99)]
    assert signs[1].line == "Stale file handle"


def test_what_only_follows_from_others_stays_behind():
    """A new sign comes before echoes, wherever these stand."""
    echo = next(rule for rule in RULES if rule.kind == "echo")
    sign = Sign(rule=echo.name, cause=echo.cause, line="an echo", number=9)
    tail = ("an echo", "Stale file handle")
    evidence = Evidence(signs=(sign,))
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, evidence=evidence, log_tail=tail)
    signs = what_if.with_rules(event, (RULE,)).evidence.signs
    assert [sign.rule for sign in signs] == ["nfs-blip", echo.name]


def test_a_recorded_sign_is_not_found_a_second_time():
    """A line that was a sign is judged by the new rule, and stays one sign with its number."""
    own = Sign(rule="mine", cause="mine", line="OSError: Stale file handle", number=70)
    tail = ("a", "OSError: Stale file handle")
    evidence = Evidence(signs=(own,))
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, evidence=evidence, log_tail=tail)
    [sign] = what_if.with_rules(event, (RULE,)).evidence.signs
    assert (sign.rule, sign.cause, sign.number) == ("nfs-blip", "bad-job", 70)


OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


def test_a_line_of_a_rule_that_is_gone_is_judged_by_the_table():
    """What the user's own rule had taken is what the built-in rules say of it, once that rule is gone."""
    own = Sign(rule="mine", cause="mine", line=OOM, number=70)
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, evidence=Evidence(signs=(own,)))
    [sign] = what_if.with_rules(event, ()).evidence.signs
    assert (sign.cause, sign.number) == ("cuda-oom", 70)


def test_what_the_table_had_not_seen_is_not_looked_for():
    """The whole log was scanned by the built-in rules: its last lines are no reason to judge them anew."""
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, log_tail=(OOM,))
    assert what_if.with_rules(event, (RULE,)).evidence.signs == ()


def test_the_exception_is_a_recorded_line():
    """A new rule sees the exception's own line, even where the end of the log is too short for it."""
    evidence = Evidence(error="OSError: [Errno 116] Stale file handle")
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, evidence=evidence, log_tail=("end",))
    assert [sign.rule for sign in what_if.with_rules(event, (RULE,)).evidence.signs] == ["nfs-blip"]


def test_without_rules_in_the_file_the_signs_stay():
    """A policy that says nothing about rules changes nothing about signs."""
    event = events.Examined(at=0.0, run="r", attempt=1, finished=False, log_tail=("Stale file handle",))
    assert what_if.with_rules(event, None) is event


def test_held_where_it_would_have_gone_on_tells_the_wait_for_a_person():
    """The time until a person resumed the run is what the other policy would have saved."""
    past = Past()
    past.launch()
    past.die(signs=(Sign(rule="mine", cause="bad-job", line="odd"),))
    past.put(events.ResumeAsked(at=past.now, run=past.run.id, by="anna"), after_s=3600.0)
    replay = past.replay(rules=())
    assert replay.failures[0].person_s == 3600.0
    assert what_if.view([replay], past.now)["summary"]["person_s"] == 3600.0


def hang(past, quiet_s):
    """The training is ended because it hangs."""
    past.launch()
    past.put(events.HangSeen(**past.who(), verdict="hung", phase="batches", quiet_s=quiet_s, text="no batch"))
    past.put(events.AutopsyDone(**past.who(), summary="it waits"))
    past.die(code=None)


@pytest.mark.parametrize(
    ("limit_s", "differs", "earlier_s"),
    [(0.0, "decision", 0.0), (1800.0, "decision", 0.0), (300.0, "delay", 420.0)],
)
def test_another_limit_for_hangs(limit_s, differs, earlier_s):
    """A hang is found earlier, later or never; what a training that was not ended would have done is not known."""
    past = Past()
    hang(past, 720.0)
    replay = past.replay(restart={"hang_after_s": limit_s})
    first = replay.failures[0]
    assert (first.differs, first.earlier_s, bool(first.end)) == (differs, earlier_s, differs == "decision")
    assert replay.unknown == (differs == "decision")
    assert what_if.view([replay], past.now)["summary"]["saved_s"] == earlier_s


def test_a_training_that_waits_for_a_disk_is_no_hang():
    """What stood still and was left alone is no failure, whatever the limit."""
    past = Past()
    past.launch()
    past.put(events.StopAsked(at=past.now, run=past.run.id, by="anna"))
    past.put(events.HangSeen(**past.who(), verdict="storage", quiet_s=720.0, text="it waits for nas:/data"))
    assert past.rows[-1].phase_after == "STOPPING"
    assert past.replay(restart={"hang_after_s": 0.0}).failures == ()


def test_a_hang_under_the_same_limit_is_one_failure():
    """Where the limit is the same, the hang is told once: by its end."""
    past = Past(hang_after_s=600.0)
    hang(past, 720.0)
    [failure] = past.replay(restart={"hang_after_s": 600.0}).failures
    assert (failure.before.cause, failure.differs) == ("hang", "")


def test_only_failures_of_the_time_asked_for():
    """Earlier failures count in the budgets, but are not told."""
    past = Past(no_progress=3)
    past.fail(2)
    since_at = past.now
    past.fail(1)
    replay = past.replay(since_at, restart={"no_progress": 9})
    assert phases(replay) == [("FAILED", "COOLING")]


def test_a_difference_before_the_time_asked_for_ends_the_replay_all_the_same():
    """What comes after it is unknown, even if the difference itself is not told."""
    past = Past(no_progress=4)
    past.fail(2)
    since_at = past.now
    past.fail(2)
    replay = past.replay(since_at, restart={"no_progress": 1})
    assert (replay.failures, replay.unknown) == ((), 2)


def test_a_decision_of_another_version_is_marked():
    """Where the journal has another decision than this version makes, the failure says so and the replay goes on."""
    past = Past(no_progress=3)
    past.fail(2)
    place = next(index for index, row in enumerate(past.rows) if row.kind == "Examined")
    past.rows[place] = msgspec.structs.replace(past.rows[place], phase_after="FAILED")
    assert [one.recorded for one in past.replay().failures] == [False, True]


def test_a_history_without_its_beginning_can_be_replayed():
    """Events of an unknown kind, or a history that begins in the middle, stop nothing."""
    past = Past(no_progress=3)
    past.fail(1)
    past.launch()
    cut = len(past.rows)
    past.die()
    rows = [*past.rows[cut:], msgspec.structs.replace(past.rows[-1], seq=999, kind="Later", body={"kind": "Later"})]
    replay = what_if.replay(past.run, rows, past.rows[:2], Other(restart={"no_progress": 1}))
    assert phases(replay) == [("COOLING", "FAILED")]


def test_the_view_is_json_and_names_the_runs():
    """The summary counts, and names the runs that would have ended earlier or gone on longer."""
    patient, strict = Past(no_progress=2), Past(no_progress=4)
    patient.fail(2)
    strict.fail(2)
    longer, earlier = patient.replay(restart={"no_progress": 9}), strict.replay(restart={"no_progress": 1})
    view = json.loads(json.dumps(what_if.view([longer, earlier], START_AT)))
    summary = view["summary"]
    assert view["version"] == 1
    assert (summary["failures"], summary["different"], summary["unknown"]) == (3, 2, 1)
    assert summary["goes_on_longer"] == summary["ends_earlier"] == ["truck@1"]


def edit(past, **restart):
    """The job file is changed while the run cools down."""
    job = msgspec.structs.replace(past.run.job, revision="bb", restart=Restart(**restart))
    past.put(events.JobFileSeen(at=past.now, path=job.file, data=b"", revision="bb", owner=0))
    past.put(events.JobAccepted(at=past.now, path=job.file, job=job))


@pytest.mark.parametrize("left_out", ["", "TimePassed"])
def test_an_edit_of_the_job_counts_from_its_next_attempt(left_out):
    """A job file that became more patient is replayed as it was at each failure; also where wakings are missing."""
    past = Past(no_progress=2)
    past.launch()
    past.die()
    edit(past, no_progress=50)
    past.wait()
    past.fail(2)
    rows = [row for row in past.rows if row.kind != left_out]
    failures = what_if.replay(past.run, rows, (), Other()).failures
    assert [(one.before.phase, one.recorded) for one in failures] == [("COOLING", True)] * 3


def test_the_other_policy_remembers_what_it_tried():
    """A cause that only the other policy sees has a plan of its own, and that is used up failure by failure."""
    steps = CAUSES["native-crash"].steps
    past = Past(no_progress=50)
    past.fail(len(steps), lines=("odd",))
    rule = Rule(name="odd", match="odd", cause="native-crash")
    taken = [one.after.step for one in past.replay(rules=(rule,)).failures]
    assert taken == list(steps)


def test_an_order_that_was_not_recorded_is_not_carried_along():
    """A hang that an older version only noted does not become the cause of a later failure."""
    past = Past()
    past.launch()
    hung = events.HangSeen(**past.who(), verdict="hung", quiet_s=720.0, text="no batch")
    body = msgspec.json.decode(msgspec.json.encode(hung))
    noted = msgspec.structs.replace(past.rows[-1], seq=len(past.rows) + 1, kind="HangSeen", body=body)
    past.rows.append(msgspec.structs.replace(noted, phase_before="RUNNING", phase_after="RUNNING"))
    past.save(1)
    past.die()
    [failure] = past.replay().failures
    assert failure.before.cause == "unknown"
