"""The real loop and the real journal in a fake machine room: one move after another, every promise checked after each.

A move is (name, pick, how): `pick` chooses among what is there, `how` among the ways. A script of moves is a test case:
hypothesis and the seeds write such scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cards import COUNT, Card, Cards, tested
from fates import ENDS_AT_ONCE, FATES
from folders import Training, WrongError
from machine_room import FakeProcessSource, MachineRoom
from msgspec.structs import replace
from people import People, picked
from promises import check_changes, check_known
from recorder import ENDS, KilledError, Recorder
from vaults import POLICIES, TARGETS, Vault, Vaults, back_up, restore

from supervisor.core import actions, deadlines, events
from supervisor.core.gpus.model import GpuPolicy
from supervisor.core.model import Phase, Policy, Run
from supervisor.effects.dispatch import failure
from supervisor.errors import PermanentError, RetryableError
from supervisor.journal import Journal, replay
from supervisor.loop import Loop

CHANNELS = ("ops", "log")
SETTLE_S = 3 * 86_400.0
Move = tuple[str, int, int]


class Simulation(People, Cards, Vaults):
    """One world, from an empty journal on."""

    def __init__(self) -> None:
        self.room = MachineRoom()
        self.room.cards = [Card(uuid=f"GPU-{index}", index=index, findings=set()) for index in range(COUNT)]
        self.room.tested = tested
        self.room.vaults = {name: Vault() for name in TARGETS}
        self.room.back_up, self.room.restore = back_up, restore
        self.record = Recorder(Journal.open(Path(":memory:")))
        self.under_way: dict[str, actions.Action] = {}
        self.in_flight: list[events.Event] = []
        self.script: list[Move] = []
        self.revisions = 0
        self.proven: set[str] = set()
        self.loop = self._boot_daemon()
        self._turn()

    def now(self) -> float:
        """The clock of the loop (see clock.Clock)."""
        return self.room.now

    # ---- the daemon
    def _boot_daemon(self) -> Loop:
        journal = self.record.journal
        loop = Loop(journal.load(), self.record, self, self._dispatch)
        self.source = FakeProcessSource(self.room)
        self.in_flight = []
        self.under_way = {action.key: action for action in journal.pending()}
        gpu = GpuPolicy(watch=True)
        policy = Policy(max_running=2, gpu_count=2, gpu=gpu, channels=CHANNELS, stop_grace_s=20.0, backups=POLICIES)
        policy = replace(policy, prunes=True)
        loop.put(events.DaemonStarted(at=self.now(), pid=1, version="sim", boot=self.room.boot))
        loop.put(events.Configured(at=self.now(), policy=policy))
        for event in (self.seen(), *self.told_again(loop)):
            loop.put(event)
        for path in [path for path in loop.world.files if path not in self.room.jobs]:
            loop.put(events.JobFileGone(at=self.now(), path=path))
        for path in self.room.jobs:
            loop.put(self._seen(path))
        return loop

    def _dispatch(self, batch: Sequence[actions.Action]) -> None:
        for action in batch:
            if action.key not in self.record.keys:
                raise WrongError(f"{action.key} is done without a record")
            self.under_way[action.key] = action

    def _turn(self) -> None:
        """Let the daemon do what it can without a wait, then check everything."""
        try:
            for _ in range(30):
                self.room.now += 0.06
                if not self.loop.run_once(block=False):
                    break
            else:
                raise WrongError("the loop does not come to rest")
        except KilledError:
            self.loop = self._boot_daemon()
            self._turn()
            return
        self._check()

    # ---- one move
    def do(self, name: str, pick: int, how: int) -> None:
        """Carry out one move and everything that follows from it at once."""
        self.script.append((name, pick, how))
        try:
            getattr(self, f"_move_{name}")(pick, how)
            self._turn()
        except WrongError as error:
            raise AssertionError(str(error)) from error

    def _put(self, found: Sequence[events.Event], how: int) -> None:
        """Report now, or keep for later (late, twice, in another order, or never)."""
        if how % 4 == 3:
            self.in_flight += found
            return
        for event in found:
            self.loop.put(event)

    def _move_act(self, pick: int, how: int) -> None:
        """Carry out one effect; messages and marks only when nothing else is to be done."""
        weighty = [one for one in self.under_way.values() if not isinstance(one, actions.Announce | actions.MarkFile)]
        self._carry_out(picked(weighty or list(self.under_way.values()), pick), how)

    def _move_speak(self, pick: int, how: int) -> None:
        self._carry_out(picked(list(self.under_way.values()), pick), how)

    def _carry_out(self, action: actions.Action | None, how: int) -> None:
        if action is None:
            return
        try:
            found = self.room.carry_out(action)
        except RetryableError:
            return
        except PermanentError as error:
            found = self._failed(action, str(error))
        del self.under_way[action.key]
        self._put(found, how)

    def _move_fail(self, pick: int, how: int) -> None:
        """An effect gives up: it can never be carried out."""
        action = picked([one for one in self.under_way.values() if _may_fail(one, self.room)], pick)
        if action is not None:
            del self.under_way[action.key]
            self._put(self._failed(action, "broken"), how)

    def _failed(self, action: actions.Action, reason: str) -> tuple[events.Event, ...]:
        starts = isinstance(action, actions.Prepare | actions.Launch)
        if starts and self.loop.world.latest.get(action.job.name) == action.run:  # an older run's is news of the past
            self.room.folder(action.job.name).count_failure(action.run)
        if isinstance(action, actions.Examine):
            self.room.folder(action.job.name).misread = True
        return (replace(failure(action, reason, self.now()), answers=action.key),)

    def _move_half(self, pick: int, how: int) -> None:
        """An effect is done, and must be done again: its answer was lost with a time-out."""
        action = picked(list(self.under_way.values()), pick)
        if action is not None:
            try:
                self.room.carry_out(action)
            except (RetryableError, PermanentError):
                return

    def _move_deliver(self, pick: int, how: int) -> None:
        event = picked(self.in_flight, pick)
        if event is None:
            return
        self.loop.put(event)
        if how % 3:
            self.in_flight.remove(event)

    def _move_train(self, pick: int, how: int) -> None:
        training = picked(self.room.alive(), pick)
        if training is not None:
            self._put(self.room.train(training, FATES[how % len(FATES)], pick + how // len(FATES)), pick)

    def _move_hang(self, pick: int, how: int) -> None:
        """The hang detector has a verdict. It may be wrong about what stands still, never about a hang."""
        training = picked(self.room.alive(), pick)
        if training is None:
            return
        verdict = ("hung", "hung", "stopped", "storage", "moving")[how % 5]
        if verdict == "hung" and not training.hung:
            verdict = "stopped"
        if verdict == "hung":
            training.proven = training.hung_once = True
        about: dict[str, Any] = {"at": self.now(), "run": training.run, "attempt": training.number}
        cause = ("hang", "hang-loader", "hang-start", "hang-of-a-user")[how // 5 % 4]
        self._put([events.HangSeen(**about, verdict=verdict, phase="train", quiet_s=900.0, cause=cause)], pick)

    def _move_back(self, pick: int, how: int) -> None:
        """What a run waits for is back, or something else is."""
        run = picked([run for run in self.loop.world.live.values() if run.waiting_for], pick)
        if run is not None:
            what = run.waiting_for if how % 4 else "shm"
            self._put([events.WaitOver(at=self.now(), run=run.id, what=what)], how)

    def _move_heal(self, pick: int, how: int) -> None:
        training = picked(self.room.alive(), pick)
        if training is not None:
            training.hung = training.deaf = False

    def _move_orphans(self, pick: int, how: int) -> None:
        for training in _all_trainings(self.room):
            training.children = 0

    def _move_look(self, pick: int, how: int) -> None:
        found = self.source.look(self.loop.world)
        if how % 5:
            self._put(found, how)

    def _move_resync(self, pick: int, how: int) -> None:
        self._put(self.source.resync(self.loop.world), how)

    def _move_time(self, pick: int, how: int) -> None:
        self.room.now += (0.1, 1.0, 20.0, 61.0, 400.0, 1900.0, 4000.0)[how % 7]
        self.record.broken = self.record.broken and bool(how % 3)

    def _move_due(self, pick: int, how: int) -> None:
        due_at = deadlines.next_at(self.loop.world, self.now())
        if due_at is not None:
            self.room.now = max(self.room.now, due_at)

    def _move_restart(self, pick: int, how: int) -> None:
        """The daemon is killed, and the clock of the next one may be hours off."""
        if how % 4 == 3:
            self.room.now += (pick % 7 - 3) * 3600.0
        self.loop = self._boot_daemon()

    def _move_kill(self, pick: int, how: int) -> None:
        self.record.kill = "after" if how % 2 else "before"

    def _move_reboot(self, pick: int, how: int) -> None:
        self.room.reboot(torn=how % 3 == 0)
        self.loop = self._boot_daemon()

    def _move_journal(self, pick: int, how: int) -> None:
        self.record.broken = how % 2 == 0

    def _move_disk(self, pick: int, how: int) -> None:
        self.room.disk_full = how % 2 == 0

    # ---- what must hold
    def _check(self) -> None:
        world = self.loop.world
        if self.record.journal.load() != world:
            raise WrongError("the journal holds another world than the loop")
        busy = [run for run in world.live.values() if run.busy and run.attempt is not None]
        given = [gpu for run in busy if run.attempt is not None for gpu in run.attempt.gpus]
        if len(given) != len(set(given)):
            raise WrongError(f"a GPU was given twice: {given}")
        for training in self.room.alive():
            check_known(world.named(training.job.name), training)
        for run in world.ended.values():
            self._check_proof(run)
        for path in self.room.moved:
            self.loop.put(events.JobFileGone(at=self.now(), path=path))
        self.room.moved = []
        self._check_hangs()
        self.check_vaults()
        self.check_cards()
        if not self.record.broken and not self.loop.degraded:
            self.check_the_dead()
        for run in world.live.values():
            check_changes(run)
            if run.job.time_limit_s is not None or (run.next_job or run.job).stages:
                self.room.told_to_end.add(run.id)

    def _check_hangs(self) -> None:
        """A training that was let go on has to be proven to hang anew, unless that is still to be told."""
        told = {(one.run, one.attempt) for one in self.in_flight if isinstance(one, events.HangSeen)}
        for training in self.room.alive() if not self.record.broken else ():
            run = self.loop.world.live.get(training.run)
            free = run is not None and run.phase is Phase.RUNNING and run.stop is None
            if free and (training.run, training.number) not in told:
                training.proven = False

    def _check_proof(self, run: Run) -> None:
        """A run that has just ended really reached its own end, or what it died of really allows nothing more."""
        if run.id in self.proven:
            return
        open_ones = [one.number for one in run.incidents if one.closed_at is None or not one.outcome]
        if open_ones:
            raise WrongError(f"{run.id} is {run.phase.value} with open incidents {open_ones}")
        self.proven.add(run.id)
        if run.job.train is None:
            return
        folder = self.room.folder(run.name)
        last = folder.files.get("last.pt")
        if run.phase is Phase.SUCCEEDED and not folder.lost and (last is None or last.state != "finished"):
            raise WrongError(f"{run.id} is SUCCEEDED, but last.pt is {last}")
        said = run.incidents[-1].cause in ENDS_AT_ONCE or folder.same_place if run.incidents else False
        too_often = folder.failures >= run.job.restart.no_progress or folder.misread
        if run.phase is Phase.FAILED and not (too_often or said):
            raise WrongError(f"{run.id} was given up after {folder.failures} failures: {run.reason}")

    def check_the_end(self) -> None:
        """What must hold when everything has come to rest."""
        world = self.loop.world
        again = replay(list(self.record.journal.events()))
        if again != world:
            raise WrongError("the replay of all events is another world")
        for run in world.ended.values():
            told = {key: count for key, count in self.record.announced.items() if key[0] == run.id}
            if told != {(run.id, ENDS[run.phase], channel): 1 for channel in CHANNELS}:
                raise WrongError(f"{run.id} is {run.phase.value}, and this was told: {told}")
        unheard = {key for key in self.record.keys if "/announce-" in key} - set(self.room.heard)
        if unheard:
            raise WrongError(f"never delivered: {sorted(unheard)}")

    # ---- heal, and it must settle
    def settle(self) -> None:
        """No more faults: in bounded time every run ends, is held, or waits for a run that did not succeed."""
        try:
            self._settle()
        except WrongError as error:
            raise AssertionError(str(error)) from error

    def _settle(self) -> None:
        self.record.broken, self.record.kill, self.room.disk_full = False, "", False
        self._move_orphans(0, 0)
        self._move_restart(0, 0)
        self._turn()
        self.heal_cards()
        self.heal_vaults()
        self._turn()
        healed_at = self.now()
        while not self._one_healthy_round():
            if self.now() > healed_at + SETTLE_S:
                raise WrongError(f"not settled: {[_standing(run) for run in self.loop.world.live.values()]}")
        for run in self.loop.world.live.values():
            waits = run.phase is Phase.QUEUED and run.waiting_for.startswith("other run")
            if run.busy or not (run.phase is Phase.HELD or waits):
                raise WrongError(f"at rest, but {_standing(run)}")
        self.check_backed_up()
        self.check_the_end()

    def _one_healthy_round(self) -> bool:
        """Everything that can happen happens once; True if nothing did."""
        before = self.loop.world
        self._move_orphans(0, 0)
        for action in list(self.under_way.values()):
            self._carry_out(action, 0)
            self._turn()
        for training in self.room.alive():
            training.hung = training.deaf = False
            for event in self.room.train(training, "save"):
                self.loop.put(event)
        for event in self.source.resync(self.loop.world):
            self.loop.put(event)
        self._turn()
        if self.under_way or self.room.alive() or _still_moving(before, self.loop.world):
            self.room.now += 5.0
            return False
        due_at = deadlines.next_at(self.loop.world, self.now())
        self.room.now = max(self.room.now, due_at or 0.0)
        return due_at is None


def _may_fail(action: actions.Action, room: MachineRoom) -> bool:
    """A launch fails for good only where nothing was started; the other effects may fail at any time."""
    if isinstance(action, actions.Launch):
        return action.attempt not in room.folder(action.job.name).attempts
    return not isinstance(action, actions.Announce | actions.MarkFile)


def _all_trainings(room: MachineRoom) -> list[Training]:
    return [one for folder in room.folders.values() for one in folder.attempts.values()]


def _still_moving(before: Any, after: Any) -> bool:
    return {key: run.phase for key, run in before.live.items()} != {key: run.phase for key, run in after.live.items()}


def _standing(run: Run) -> str:
    return f"{run.id} is {run.phase.value} since {run.phase_since} ({run.reason}; waits for {run.waiting_for})"
