"""Another life of the machine, or of the container: trainings were cut off by nobody's fault, and are resumed."""

from __future__ import annotations

import os
import shlex
import signal
import uuid
from pathlib import Path

import pytest
from daemon_harness import alive, can, children, needs, until

pytestmark = pytest.mark.e2e

CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def container(still):
    """A server whose daemon is process 1 of a container."""
    needs(can(*CONTAINER, "true"), "root and unshare, for a container")
    still.prefix = CONTAINER
    return still


def process_1(server):
    """The container's process 1, as it is numbered outside."""
    [pid] = children(server.daemon.pid)
    return pid


def stop_container(server, number=signal.SIGTERM):
    """Signal process 1, as a container engine does, and wait for the end of everything in it."""
    first, outer = process_1(server), server.daemon
    os.kill(first, number)
    outer.wait(20)
    server.daemon = None


def zombies_below(pid):
    """Children of process 1 that nobody has reaped."""
    return [child for child in children(pid) if not alive(child)]


def test_as_process_1_it_reaps_and_serves(container):
    """Trainings run, die and end; what they leave to process 1 is reaped, and no zombie stays."""
    container.start()
    container.train("truck", "--signal-after KILL@2.1 --fault-once", epochs=3)
    container.wait("truck", "SUCCEEDED")
    assert container.attempts("truck") == [1, 2]
    until(lambda: len(children(process_1(container))) == 1, "only the daemon is left below process 1", 10)
    assert zombies_below(process_1(container)) == []


def test_sigterm_to_process_1_ends_the_daemon(container):
    """The exit code is the daemon's own, the stop is on record."""
    container.start()
    container.train("truck", "--epoch-s 0.2", epochs=100)
    container.wait_saved("truck", 1)
    first, outer = process_1(container), container.daemon
    os.kill(first, signal.SIGTERM)
    assert outer.wait(20) == 0
    container.daemon = None
    assert "stopping (SIGTERM)" in container.said()
    assert not container.socket.exists()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_restarted_container_counts_as_a_reboot(container, number):
    """Everything in it was killed: the next container resumes the run at once, and counts no failure."""
    container.start()
    container.train("truck", "--epoch-s 0.3", epochs=9, restart={"no_progress": 1})
    container.wait_saved("truck", 2)
    stop_container(container, number)
    saved = len(container.attempt("truck").beats("saved"))
    container.start()
    done = container.wait("truck", "SUCCEEDED")
    assert container.attempts("truck") == [1, 2]
    assert container.attempt("truck", 2).beats("resumed")[0]["from_epoch"] + 1 == saved
    assert container.epochs_in_table("truck") == list(range(1, 10))
    assert done["failures"] == 0
    [ended] = [row for row in container.history("truck@1", "Examined") if row.body["attempt"] == 1]
    assert "restarted" in ended.reason
    assert "not counted as a failure" in ended.reason


def test_after_a_reboot_of_the_machine_runs_are_resumed_and_not_counted(still):
    """Another boot id: the numbers in the files mean nothing any more, nobody is signalled, the run goes on."""
    needs(can("unshare", "--mount", "true"), "root and unshare, for another boot id")
    still.start()
    for name in ("truck", "lorry"):
        still.train(name, "--epoch-s 0.3", epochs=8, restart={"no_progress": 1})
    for name in ("truck", "lorry"):
        still.wait_saved(name, 2)
    still.end()
    for name in ("truck", "lorry"):  # the power fails: nothing is recorded of their ends
        os.kill(still.attempt(name).shim_pid, signal.SIGKILL)
        os.kill(still.attempt(name).pid, signal.SIGKILL)
    other = still.top / "boot_id"
    other.write_text(f"{uuid.uuid4()}\n")
    bind = f"mount --bind {shlex.quote(str(other))} /proc/sys/kernel/random/boot_id"
    still.prefix = ["unshare", "--mount", "sh", "-c", f'{bind} && exec "$@"', "sh"]
    still.start()
    resumed = until(lambda: [name for name in ("truck", "lorry") if still.attempts(name) == [1, 2]], "one is resumed")
    [waiting] = {"truck", "lorry"} - set(resumed)
    assert still.wait(waiting, "QUEUED")["waiting_for"] == "time"  # starts are staggered after a boot
    done = still.wait(resumed[0], "SUCCEEDED")
    assert done["failures"] == 0
    assert still.epochs_in_table(resumed[0]) == list(range(1, 9))
    assert not (still.attempt(resumed[0]).directory / "exit.json").exists()
    why = still.cli("why", resumed[0], "--events").stdout
    assert "the machine restarted" in why
    assert Path("/proc/sys/kernel/random/boot_id").read_text() != other.read_text()
