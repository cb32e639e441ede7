"""No record, no act: a journal that cannot be written stops decisions and not trainings, and heals by itself."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from daemon_harness import alive, can, needs, site, until
from service_listener import Manager

from supervisor.cli.failures import TryLater
from tests.webhook_receiver import Receiver

pytestmark = pytest.mark.e2e

PADDING = "# " + "x" * 200_000 + "\n"


@pytest.fixture
def small_disk():
    """A server whose state lies on a disk of 40 MiB (8 of them the journal's reserve); its runs lie elsewhere."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(site())
        mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(made.state)]
        needs(can(*mount), "root and mount, for a disk that can be filled")
        stack.callback(subprocess.run, ["umount", "-l", str(made.state)], check=True)
        made.runs_dir = made.root / "runs"
        made.tables["server"]["runs_dir"] = str(made.runs_dir)
        made.write_config()
        yield made


def fill(server):
    """Leave no free block on the disk of the journal."""
    with contextlib.suppress(OSError), (server.state / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def degraded(server):
    """What the daemon says about its journal; empty when all is well."""
    return server.client.get("/v1/status")["daemon"]["degraded"]


def reserve_bytes(server):
    """How much room is kept for the journal."""
    path = server.state / "journal.reserve"
    return path.stat().st_size if path.exists() else 0


def fill_until_degraded(server):
    """Job files make the journal grow until it cannot; the reserve, given up, is eaten too."""
    server.numbers = getattr(server, "numbers", iter(range(1000)))

    def look():
        fill(server)
        if not degraded(server):
            server.drop(f"filler-{next(server.numbers)}.toml", f'command = ["/bin/true"]\nafter = ["never"]\n{PADDING}')
        return degraded(server)

    return until(look, "the journal cannot be written")


def test_a_full_disk_stops_decisions_and_not_trainings(small_disk):
    """Trainings run on, nothing is launched, an unjournalled page goes out; with space it goes on by itself."""
    server = small_disk
    with Receiver() as receiver, contextlib.closing(Manager(server.top / "notify")) as manager:
        server.extra_env = {"NOTIFY_SOCKET": str(server.top / "notify")}
        server.channels = [{"name": "hook", "kind": "webhook", "url": receiver.url()}]
        server.write_config()
        server.start()
        server.train("long", "--epoch-s 0.3", epochs=200)
        server.train("short", "--epoch-s 1", epochs=4)
        server.wait_saved("long", 1)
        server.wait("short", "RUNNING")
        assert "full" in fill_until_degraded(server) or "I/O" in degraded(server)
        trainer = server.attempt("long").pid
        server.train("waiting", epochs=1)
        until(lambda: "supervisor.degraded" in [m["body"]["type"] for m in receiver.received], "the direct page", 20)
        [page] = [m["body"]["data"] for m in receiver.received if m["body"]["type"] == "supervisor.degraded"]
        assert "not journalled" in page["text"].lower()
        assert page["severity"] == "page"
        assert "nothing is decided" in manager.wait_for("STATUS=DEGRADED")
        fill_until_degraded(server)  # the reserve that was given up is used up as well
        epoch = len(server.attempt("long").beats("saved"))
        server.attempt("short").json("exit.json")
        server.attempt("long").wait_for_beat("saved", epoch=epoch + 2)
        assert alive(trainer)
        assert server.attempts("waiting") == []
        with pytest.raises(TryLater, match="cannot write"):
            server.order("cancel", "long", now=True)
        assert alive(trainer)
        assert server.daemon.poll() is None
        assert "Traceback" not in server.said()
        (server.state / "filler").unlink()
        until(lambda: not degraded(server), "the journal is written again")
        server.wait("waiting", "SUCCEEDED")
        server.wait("short", "SUCCEEDED")
        assert server.attempts("short") == [1]
        server.wait("long", "CANCELLED")  # the order that was taken meanwhile
        assert server.attempts("long") == [1]
        until(lambda: reserve_bytes(server) == 8 * 1024**2, "the reserve is made again")


def test_a_daemon_killed_while_its_journal_is_full_forgets_nothing(small_disk):
    """Killed in that state: the next one waits for space, then adopts the training and takes what came meanwhile."""
    server = small_disk
    server.start()
    server.train("long", "--epoch-s 0.3", epochs=200)
    server.wait_saved("long", 1)
    fill_until_degraded(server)
    server.train("waiting", epochs=1)
    server.end()
    assert alive(server.attempt("long").pid)
    (server.state / "filler").unlink()
    server.start()
    server.wait("waiting", "SUCCEEDED")
    assert server.wait("long", "RUNNING")["attempt"] == 1
    assert server.attempts("long") == [1]
