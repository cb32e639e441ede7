"""A world on a bench: events are told one by one, time is moved by hand, every step is checked and replayed."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from supervisor.core import actions, deadlines, events
from supervisor.core.model import Boot, Job, Phase, Policy, Run, World
from supervisor.core.step import step

FIRST_BOOT = Boot("boot-1", 1)
SECOND_BOOT = Boot("boot-2", 1)
START = 1_000_000.0


class Bench:
    """The deciding core, driven by a test."""

    def __init__(self, **policy: Any) -> None:
        self.world = World()
        self.now = START
        self.told: list[tuple[events.Event, float]] = []
        self.ordered: list[actions.Action] = []
        self.pids = iter(range(100, 100_000))
        self.tell(events.DaemonStarted, pid=1, version="test", boot=FIRST_BOOT)
        self.tell(events.Configured, policy=Policy(**{"max_running": 4, "channels": ("ops",), **policy}))

    # ---- telling
    def tell(self, kind: type[events.Event], run: str = "", **fields: Any) -> tuple[actions.Action, ...]:
        """Let an event of that kind happen now; the run by its name. Returns what was ordered."""
        if run:
            found = self.run(run)
            fields["run"] = found.id
            if issubclass(kind, events.AttemptEvent) and "attempt" not in fields:
                fields["attempt"] = found.attempts
        event = kind(**{"at": self.now, **fields})
        before = self.world
        self.world, ordered = step(self.world, event, self.now)
        self.told.append((event, self.now))
        self.ordered += ordered
        _check(before, self.world)
        return ordered

    def wait(self, seconds: float) -> tuple[actions.Action, ...]:
        """Let time pass, with a tick at each deadline on the way, as the loop gives it."""
        end = self.now + seconds
        before = len(self.ordered)
        ticked_at = self.now
        while (due_at := deadlines.next_at(self.world, ticked_at)) is not None and due_at <= end:
            self.now = ticked_at = max(self.now, due_at)
            self.tell(events.TimePassed)
        self.now = end
        return tuple(self.ordered[before:])

    # ---- people and files
    def submit(
        self, name: str = "a", *, path: str | None = None, revision: str = "", note: str = "", **job: Any
    ) -> str:
        """Drop a job file that the check accepts; the name of the job."""
        file = f"/jobs/{name}.toml" if path is None else path
        made = make_job(name, file=file, revision=revision or f"{name}-1", **job)
        self.tell(events.JobFileSeen, path=file, data=b"x", revision=made.revision, owner=made.owner)
        self.tell(events.JobAccepted, path=file, job=made, note=note)
        return name

    # ---- the usual course
    def launch(self, name: str = "a", *, start: str = "fresh", from_epoch: int = 0) -> None:
        """From PREPARING to RUNNING."""
        checkpoint = "" if start == "fresh" else "/runs/last.pt"
        self.tell(events.Prepared, name, start=start, checkpoint=checkpoint, from_epoch=from_epoch)
        self.tell(events.Launched, name, **self.launched_facts())

    def launched_facts(self) -> dict[str, Any]:
        """The fields of a Launched event for a new process."""
        pid = next(self.pids)
        return {"pid": pid, "shim_pid": pid - 1, "boot": self.world.boot, "started_at": self.now}

    def save(self, epoch: int, name: str = "a", epochs: int = 10) -> tuple[actions.Action, ...]:
        """An epoch is trained and saved."""
        return self.tell(events.Progressed, name, epoch=epoch, epochs=epochs, saved_epoch=epoch)

    def die(self, name: str = "a", *, code: int | None = None, signal: int | None = None, **found: Any) -> None:
        """The trainer ends, nothing of it is left, and what it left is read."""
        self.tell(events.AttemptExited, name, code=code, signal=signal, ended_at=self.now)
        self.tell(events.AttemptCleared, name)
        self.tell(events.Examined, name, **{"finished": False, **found})

    def finish(self, name: str = "a") -> None:
        """The trainer reaches its own end."""
        self.die(name, code=0, finished=True, proof="finished after 10 epochs")

    def bring_to(self, phase: Phase, name: str = "a", **job: Any) -> Run:
        """A new run in that phase, by the shortest usual way."""
        if phase is Phase.QUEUED:
            job["start_after_at"] = self.now + 1e6
        self.submit(name, **job)
        if phase in {Phase.QUEUED, Phase.PREPARING}:
            return self.run(name)
        if phase is Phase.STARTING:
            self.tell(events.Prepared, name, start="fresh")
            return self.run(name)
        self.launch(name)
        self.save(1, name)
        if phase is Phase.STOPPING:
            self.tell(events.StopAsked, name, by="ann")
        elif phase is Phase.COOLING:
            self.tell(events.AttemptExited, name, code=1, ended_at=self.now)
        elif phase is Phase.HELD:
            self.die(name, code=66)
        elif phase is Phase.SUCCEEDED:
            self.finish(name)
        elif phase is Phase.FAILED:
            self.fail_for_good(name)
        elif phase is Phase.CANCELLED:
            self.tell(events.CancelAsked, name, by="ann")
            self.die(name, code=75)
        return self.run(name)

    def fail_for_good(self, name: str = "a") -> None:
        """Let it die until it is given up."""
        while not self.run(name).phase.terminal:
            if self.run(name).phase is Phase.RUNNING:
                self.die(name, code=1)
            self.wait(3600.0)
            if self.run(name).phase is Phase.PREPARING:
                self.launch(name, start="resume", from_epoch=1)

    # ---- looking
    def run(self, name: str = "a") -> Run:
        """The newest run of that name."""
        found = self.world.named(name) or self.world.run(name)
        assert found is not None, f"no run {name}"
        return found

    def phase(self, name: str = "a") -> Phase:
        """Where the newest run of that name stands."""
        return self.run(name).phase

    def of(self, kind: type[actions.Action], name: str = "") -> list[Any]:
        """All actions of a kind that were ordered so far, for one run where a name is given."""
        wanted = self.run(name).id if name else ""
        return [one for one in self.ordered if isinstance(one, kind) and (not wanted or one.run == wanted)]

    def said(self, name: str = "") -> list[str]:
        """What the first channel was told, in order."""
        return [one.what for one in self.of(actions.Announce, name) if one.channel == "ops"]

    def replayed(self) -> World:
        """The world that the same events make once more."""
        world = World()
        for event, now in self.told:
            world, _ = step(world, event, now)
        return world


def go_on(bench, name="a", *, finished=False):
    """Let the machine answer everything that is open until the run rests: the trainer obeys, nothing survives."""
    for _ in range(50):
        run = bench.run(name)
        if run.phase is Phase.PREPARING:
            saved = run.progress.saved_epoch
            bench.tell(events.Prepared, name, start="resume" if saved else "fresh", from_epoch=saved)
        elif run.phase is Phase.STARTING:
            bench.tell(events.Launched, name, **bench.launched_facts())
        elif run.phase is Phase.RUNNING or (run.phase is Phase.STOPPING and run.stop.how == "save"):
            bench.save(run.progress.saved_epoch + 1, name)
            if finished and bench.run(name).progress.saved_epoch >= 10:
                bench.finish(name)
        elif run.phase is Phase.STOPPING:
            bench.die(name, code=75)
        elif run.phase is Phase.COOLING:
            if run.attempt.ended_at is not None and not run.attempt.cleared:
                bench.tell(events.AttemptCleared, name)
            elif not run.attempt.over:
                bench.tell(events.Examined, name, finished=False)
            else:
                bench.wait(700.0)
        else:
            return run.phase
    return bench.phase(name)


def make_job(name: str = "a", **fields: Any) -> Job:
    """An Ultralytics job of ten epochs, unless `command` is given."""
    known: dict[str, Any] = {"name": name, "revision": f"{name}-1", "python": "/env/bin/python"}
    if "command" not in fields:
        known["train"] = {"model": "/m.yaml", "data": "/d.yaml", "epochs": 10}
    return Job(**{**known, **fields})


def edited(job: Job, **fields: Any) -> Job:
    """Another revision of a job."""
    return replace(job, **{"revision": f"{job.revision}+", **fields})


def _check(before: World, after: World) -> None:
    """What must hold after every step of every test."""
    for run_id, run in before.ended.items():
        assert after.ended[run_id].phase is run.phase, "a terminal phase was left"
    for run in after.live.values():
        assert not run.phase.terminal
        assert (run.deadline_at is not None) == run.phase.needs_deadline, f"{run.phase} with deadline {run.deadline_at}"
    having = [run for run in after.live.values() if run.busy and run.attempt and not run.job.gpu.share]
    given = [gpu for run in having for gpu in run.attempt.gpu_ids]
    assert len(given) == len(set(given)), "a GPU was given twice"
