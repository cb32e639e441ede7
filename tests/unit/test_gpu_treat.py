"""Resets, restarts and power limits: only what is configured, only on an idle GPU, and safe to repeat."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import msgspec
import pytest

from supervisor.core.actions import TreatGpu
from supervisor.core.model import Boot, Phase
from supervisor.effects import short_child
from supervisor.effects.gpu_treat import GpuTreater
from supervisor.errors import PermanentError, RetryableError
from supervisor.gpu_config import command

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_eyes import ALICE, UUID, FakeEyes, gpu, quarantined, reading, run, world

IDLE = world(gpus=(quarantined(),))
WAITS = world(gpus=(quarantined("reboot"),))  # for a restart of the machine


class Surgery:
    """A treater, whoever watches the GPUs, and the boot that it believes to be in."""

    def __init__(self, folder, *, words=("true",), eyes=None, there=IDLE, limit_s=30.0):
        self.eyes = eyes or FakeEyes()
        self.boot = Boot("first", 1)
        self.up_s = 100.0
        self.treater = GpuTreater(
            self.eyes,
            lambda: there,
            lambda what, one: command(words, uuid=one.uuid, index=one.index, bus_id=one.facts.bus_id),
            folder / "reboot.json",
            lambda: 5.0,
            environ={"HOME": "/h", "SECRET": "x"},
            limit_s=limit_s,
            boot=lambda: self.boot,
            uptime_s=lambda: self.up_s,
        )

    def __call__(self, what, share=1.0, watts=0.0, key="gpu/1"):
        """The answer to an order."""
        (event,) = self.treater(TreatGpu(key=key, gpu=UUID, what=what, share=share, watts=watts))
        assert (event.gpu, event.at) == (UUID, 5.0)
        return event


def script(folder, text):
    """A program for /bin/sh."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_gone(pid):
    """True once a process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    ended = bool(poll.poll(10_000))
    os.close(handle)
    return ended


def replace_quarantine(**changes):
    """A GPU that waits for a restart, with something else in its quarantine."""
    one = quarantined("reboot")
    return msgspec.structs.replace(one, quarantine=msgspec.structs.replace(one.quarantine, **changes))


# ---- reset
def test_a_reset_runs_the_configured_words_while_nobody_watches_the_gpu(tmp_path):
    """Placeholders are filled in, no shell sees them, the secrets of the daemon stay here, its output is told."""
    program = script(tmp_path, 'echo "$@"; echo "home=$HOME secret=$SECRET" >&2')
    surgery = Surgery(tmp_path, words=(program, "{uuid}", "{index}", "{bus_id}", "$(id) ; x"))
    event = surgery("reset")
    assert event.ok
    assert event.what == "reset"
    assert event.text.endswith("GPU-aaaa 3 0000:3b:00.0 $(id) ; x home=/h secret=")
    assert surgery.eyes.log == [("release", UUID), ("resume",)]


def test_a_reset_that_fails_is_told_and_the_gpu_is_watched_again(tmp_path):
    """Exit code and what it printed; the same for a program that is not there."""
    surgery = Surgery(tmp_path, words=(script(tmp_path, "echo in use by another client; exit 19"),))
    event = surgery("reset")
    assert (event.ok, "ended with 19: in use by another client" in event.text) == (False, True)
    assert surgery.eyes.log == [("release", UUID), ("resume",)]
    missing = Surgery(tmp_path, words=("/nowhere/nvidia-smi",))
    event = missing("reset")
    assert (event.ok, event.text) == (False, "`/nowhere/nvidia-smi` cannot be started: No such file or directory")
    assert missing.eyes.log[-1] == ("resume",)


def test_a_reset_that_hangs_is_ended_and_the_gpu_is_watched_again(tmp_path):
    """What it printed until then is told."""
    surgery = Surgery(tmp_path, words=(script(tmp_path, "echo resetting; exec sleep 600"),), limit_s=0.3)
    event = surgery("reset")
    assert not event.ok
    assert event.text.endswith("did not end within 0 s: resetting")
    assert surgery.eyes.log[-1] == ("resume",)


def test_nothing_is_reset_while_our_own_probe_hangs_in_the_driver(tmp_path):
    """It has the GPU open and cannot be ended: tried again later, and the GPUs are watched meanwhile."""
    eyes = FakeEyes()
    eyes.hangs = True
    surgery = Surgery(tmp_path, words=(script(tmp_path, f"echo reset >> {tmp_path / 'log'}"),), eyes=eyes)
    with pytest.raises(RetryableError, match="hangs in the driver"):
        surgery("reset")
    assert not (tmp_path / "log").exists()
    assert eyes.log == [("release", UUID), ("resume",)]


def test_a_gpu_that_is_used_is_not_reset(tmp_path):
    """Looked at again just before: a stranger, a process of ours, or a run that has it. It is tried again later."""
    stranger, ours = FakeEyes(), FakeEyes()
    stranger.others[UUID], ours.ours[UUID] = (ALICE,), (77,)
    holding = world(run(phase=Phase.RUNNING), gpus=(quarantined(),))
    for eyes, there, who in (
        (stranger, IDLE, "pid 4242 of alice"),
        (ours, IDLE, "pid 77"),
        (FakeEyes(), holding, "truck has it"),
    ):
        surgery = Surgery(tmp_path, eyes=eyes, there=there)
        with pytest.raises(RetryableError, match=who):
            surgery("reset")
        assert not surgery.eyes.log


def test_a_gpu_that_does_not_answer_can_be_reset(tmp_path):
    """That is mostly why: it has no list of processes any more, and the reset itself refuses if somebody is there."""
    surgery = Surgery(tmp_path, eyes=FakeEyes(None))
    assert surgery("reset").ok


def test_a_gpu_that_was_released_meanwhile_is_not_reset(tmp_path):
    """The order waited until it was idle; a person gave the GPU back: nothing is done, nothing failed."""
    surgery = Surgery(tmp_path, there=world(gpus=(gpu(),)))
    event = surgery("reset")
    assert (event.what, event.ok, surgery.eyes.log) == ("nothing", True, [])


def test_nothing_is_executed_that_is_not_configured(tmp_path):
    """No words: not done. An order that nobody knows: never."""
    for what, there in (("reset", IDLE), ("reboot", WAITS)):
        surgery = Surgery(tmp_path, words=(), there=there)
        event = surgery(what)
        assert (event.ok, event.text) == (False, f"no {what}_command is configured")
    with pytest.raises(PermanentError):
        surgery("overclock")
    assert not surgery.eyes.log


# ---- reboot
def test_a_restart_is_ordered_once(tmp_path):
    """The order is in the journal until it is answered: the next boot answers it and restarts nothing again."""
    log = tmp_path / "log"
    surgery = Surgery(tmp_path, words=(script(tmp_path, f"echo reboot >> {log}"),), there=WAITS)
    assert surgery("reboot").ok
    assert surgery("reboot").ok, "the machine did not go down: asked again"
    assert log.read_text().splitlines() == ["reboot"] * 2
    surgery.boot = Boot("second", 1)
    event = surgery("reboot")
    assert (event.ok, event.text) == (True, "the machine was restarted")
    assert log.read_text().splitlines() == ["reboot"] * 2
    assert surgery("reboot", key="gpu/2").ok, "another order, weeks later"
    assert log.read_text().splitlines() == ["reboot"] * 3


def test_no_machine_is_restarted_under_a_training(tmp_path):
    """Of whatever GPU it is; and not where it is not known whether it was restarted already."""
    surgery = Surgery(tmp_path, there=world(run("car", phase=Phase.RUNNING, gpus=()), gpus=(quarantined("reboot"),)))
    with pytest.raises(RetryableError, match="car runs"):
        surgery("reboot")
    (tmp_path / "reboot.json").write_bytes(b"{")
    with pytest.raises(PermanentError):
        Surgery(tmp_path)("reboot")


@pytest.mark.parametrize("one", [gpu(), quarantined("person"), replace_quarantine(met_at=2.0)])
def test_a_restart_that_nobody_needs_any_more_is_not_made(tmp_path, one):
    """The order waited until nothing ran; meanwhile the GPU was released, tested, or is for a person."""
    surgery = Surgery(
        tmp_path, words=(script(tmp_path, f"echo reboot >> {tmp_path / 'log'}"),), there=world(gpus=(one,))
    )
    event = surgery("reboot")
    assert (event.what, event.ok, (tmp_path / "log").exists()) == ("nothing", True, False)


def test_an_order_from_before_this_boot_restarts_nothing(tmp_path):
    """Somebody else restarted the machine, before the order was begun: what it was for is over."""
    surgery = Surgery(tmp_path, words=(script(tmp_path, f"echo reboot >> {tmp_path / 'log'}"),), there=WAITS)
    surgery.up_s = 3.0  # it is second 5, the quarantine is of second 1
    event = surgery("reboot")
    assert (event.what, event.ok, (tmp_path / "log").exists()) == ("nothing", True, False)


# ---- power
def test_power_is_limited_and_the_limit_lifted(tmp_path):
    """To a share of the default, then back to what was in force; where that is not known, to the default."""
    surgery = Surgery(tmp_path)
    event = surgery("power", 0.8)
    assert (event.ok, event.text, event.share, event.watts) == (True, "limited to 280 W", 0.8, 350.0)
    event = surgery("power", watts=350.0)
    assert (event.ok, event.text, event.share) == (True, "limited to 350 W", 1.0)
    assert surgery("power").text == "the board's default power limit"
    assert surgery.eyes.log == [("power", UUID, 280.0), ("power", UUID, 350.0), ("power", UUID, None)]


def test_a_lower_limit_of_the_administrator_is_kept_and_restored(tmp_path):
    """A hot GPU never gets more than it had, and neither does one that is well again."""
    surgery = Surgery(tmp_path)
    surgery.eyes.limits_w = (200.0, 350.0)
    event = surgery("power", 0.8)
    assert (event.ok, event.text, event.watts) == (True, "limited to 200 W", 200.0)
    assert surgery("power", watts=event.watts).ok
    assert surgery.eyes.log == [("power", UUID, 200.0)] * 2


def test_a_limit_that_is_refused_is_told(tmp_path):
    """Both ways; and where the driver does not tell what is allowed, nothing is set."""
    surgery = Surgery(tmp_path)
    surgery.eyes.power_problem = "NO_PERMISSION"
    for share in (0.8, 1.0):
        event = surgery("power", share)
        assert (event.ok, event.text, event.share) == (False, "NO_PERMISSION", share)
    untold = Surgery(tmp_path)
    untold.eyes.limits_w = None
    event = untold("power", 0.8)
    assert (event.ok, event.text, event.share) == (False, "the driver does not tell the power limits", 0.8)
    assert untold.eyes.log == []


def test_our_own_limit_is_not_taken_for_what_was_before(tmp_path):
    """The order may be carried out twice, with a restart of the daemon between: then nobody knows any more."""
    surgery = Surgery(tmp_path)
    surgery.eyes.limits_w = (280.0, 350.0)
    event = surgery("power", 0.8)
    assert (event.ok, event.text, event.watts) == (True, "limited to 280 W", 0.0)


# ---- a child that must end in time
def test_a_child_that_ignores_the_request_is_killed_with_all_that_it_started(tmp_path):
    """SIGTERM, then SIGKILL to the whole tree; what it printed is kept, its end alone if it is long."""
    pids = tmp_path / "pids"
    text = f"trap '' TERM; head -c 200000 /dev/zero | tr '\\0' x; sleep 600 & echo $! > {pids}; echo end; while :; do wait; done"
    ended = short_child.run([script(tmp_path, text)], {"PATH": "/usr/bin:/bin"}, 1.0, term_s=0.2)
    assert (ended.late, ended.code) == (True, -9)
    assert len(ended.out) <= short_child.KEPT_BYTES
    assert ended.out.endswith("xend\n")
    assert is_gone(int(pids.read_text()))


def test_a_late_child_that_obeys_leaves_nobody_behind(tmp_path):
    """What it had started ends with it, although it takes no signal from its parent."""
    ended = short_child.run([script(tmp_path, "sleep 600 & echo $!; wait")], {"PATH": "/usr/bin:/bin"}, 0.5)
    assert (ended.late, ended.code) == (True, -15)
    assert is_gone(int(ended.out))


def test_a_child_that_cannot_be_ended_is_left_behind_and_reaped_later(tmp_path, monkeypatch):
    """One that hangs in the kernel takes no signal: nobody waits for it longer, and it is no zombie for ever."""
    monkeypatch.setattr(short_child.attempt_files, "signal_process", lambda *_: True)
    monkeypatch.setattr(short_child, "KILL_S", 0.1)
    ended = short_child.run(["sleep", "600"], {"PATH": "/usr/bin:/bin"}, 0.1, term_s=0.1)
    assert (ended.late, ended.code) == (True, None)
    (child,) = short_child._left_behind
    child.kill()
    child.wait(30)
    assert short_child.run(["true"], {"PATH": "/usr/bin:/bin"}, 30).code == 0
    assert not short_child._left_behind


def test_a_child_whose_pipe_lives_on_is_over_all_the_same(tmp_path):
    """A program that it started in the background holds the pipe: only the child itself is waited for."""
    ended = short_child.run([script(tmp_path, "sleep 600 & echo $!; exit 4")], {"PATH": "/usr/bin:/bin"}, 30)
    assert (ended.code, ended.late) == (4, False)
    short_child.attempt_files.signal_process(
        int(ended.out), short_child.attempt_files.process_start_time(int(ended.out)), 9
    )


def test_a_gpu_that_is_read_is_asked_for_its_users(tmp_path):
    """A reading without trouble and a reading with a pending reset: in both the list of processes counts."""
    eyes = FakeEyes(reading(recovery_action=1))
    eyes.others[UUID] = (ALICE,)
    with pytest.raises(RetryableError):
        Surgery(tmp_path, eyes=eyes)("reset")
