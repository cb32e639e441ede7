"""Starting a daemon: only one at a time, only with a right configuration, and systemd is told how it is."""

from __future__ import annotations

import json
import signal
import time

import pytest
from daemon_harness import until
from service_listener import Manager

pytestmark = pytest.mark.e2e


@pytest.fixture
def manager(still):
    """A service manager that wants a sign of life every 2 s."""
    path = still.top / "notify"
    listening = Manager(path)
    still.extra_env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"}
    yield listening
    listening.close()


def test_a_second_daemon_on_the_same_state_is_refused(server):
    """Exit code 73, the first one's pid in the message, and the first one works on."""
    first = server.daemon.pid
    server.tables["server"]["socket"] = str(server.top / "other")
    server.write_config()
    second = server.spawn()
    assert second.wait(20) == 73
    assert f"pid {first} " in server.said()
    server.toy("still-served", epochs=1)
    server.wait("still-served", "SUCCEEDED")


def test_a_second_daemon_on_the_same_socket_is_refused(server):
    """Another state directory, the same socket: it says whose the socket is and ends; the first one is not touched."""
    server.tables["server"]["state_dir"] = str(server.top / "state-2")
    server.write_config()
    second = server.spawn()
    assert second.wait(20) == 1
    assert f"another daemon (pid {server.daemon.pid}) answers" in server.said()
    assert "Traceback" not in server.said()
    assert server.client.get("/v1/status")["daemon"]["pid"] == server.daemon.pid


def test_the_lock_of_a_killed_daemon_is_free(server):
    """A daemon that was killed keeps nobody out."""
    killed = server.daemon.pid
    server.restart()
    assert server.client.get("/v1/status")["daemon"]["pid"] == server.daemon.pid != killed


@pytest.mark.parametrize(
    ("table", "key", "value", "said"),
    [
        ("queue", "max_runing", 3, ["queue.max_runing", "max_running"]),
        ("jobs", "settle", 30, ["jobs.settle", "expected", "got 30", '"30s"']),
        ("server", "state_dir", "state", ["server.state_dir", "expected", "got", "state"]),
    ],
)
def test_a_bad_configuration_is_refused(still, table, key, value, said):
    """Exit code 78; the message names file, line, key, what was expected and what stood there."""
    still.tables[table][key] = value
    still.write_config()
    assert still.spawn().wait(20) == 78
    message = still.said()
    assert str(still.config) in message
    assert "Traceback" not in message
    for words in said:
        assert words in message, message


def test_a_configuration_that_is_no_toml_is_refused(still):
    """Exit code 78 and the line, never a traceback."""
    still.config.write_text('[server]\nname = "a\n')
    assert still.spawn().wait(20) == 78
    assert "line 2" in still.said()
    assert "Traceback" not in still.said()


def test_the_service_manager_hears_ready_status_and_the_watchdog(still, manager):
    """READY=1 with a status after the start, WATCHDOG=1 at least every half of its limit, STOPPING=1 at the end."""
    still.start()
    ready = manager.wait_for("READY=1")
    assert "STATUS=0 running" in ready
    assert f"MAINPID={still.daemon.pid}" in ready
    manager.wait_for("WATCHDOG=1")
    first = time.monotonic()
    manager.wait_for("WATCHDOG=1")
    assert time.monotonic() - first < 2.0
    still.toy("truck", epochs=200)
    still.wait("truck", "RUNNING")
    manager.wait_for("STATUS=1 running")
    assert "NOTIFY_SOCKET" not in still.attempt("truck").env
    assert still.end(signal.SIGTERM) == 0
    manager.wait_for("STOPPING=1")


def test_an_idle_daemon_feeds_its_watchdog(still, manager):
    """Nothing happens for a long time, and the watchdog of 2 s never goes hungry."""
    still.start()
    manager.wait_for("READY=1")
    last = time.monotonic()
    for _ in range(4):
        manager.wait_for("WATCHDOG=1", within_s=2.0)
        assert time.monotonic() - last < 2.0
        last = time.monotonic()


def test_sighup_takes_over_limits_and_keeps_them_when_the_file_is_broken(still, manager):
    """Reload: RELOADING=1 and READY=1, with rules; what needs a restart is named. A broken file changes nothing."""
    still.tables["queue"]["max_running"] = 1
    still.write_config()
    still.start()
    still.toy("one", epochs=400)
    still.wait("one", "RUNNING")
    still.toy("two", epochs=400)
    assert still.wait("two", "QUEUED")["waiting_for"] == "slot"
    still.tables["queue"]["max_running"] = 2
    still.tables.setdefault("hang", {})["every"] = "20s"
    still.write_config()
    rule = '[[rule]]\nname = "mine"\nmatch = "QUOTA"\ncause = "disk-full"\n'
    still.config.write_text(f"{still.config.read_text()}\n{rule}")
    still.daemon.send_signal(signal.SIGHUP)
    reloading = manager.wait_for("RELOADING=1")
    assert "MONOTONIC_USEC=" in reloading  # without it systemd 253+ ignores the message (sd_notify(3))
    manager.wait_for("READY=1")
    still.wait("two", "RUNNING")
    assert "changed in the configuration, but needs a restart: hang" in still.said()
    assert still.client.get("/v1/config")["config"]["rule"][0]["name"] == "mine"
    still.config.write_text("[queue]\nmax_running = 'many'\n")
    still.daemon.send_signal(signal.SIGHUP)
    assert "the old one stays" in manager.wait_for("READY=1")
    assert still.client.get("/v1/status")["max_running"] == 2
    assert still.daemon.poll() is None


def test_ls_and_why_read_the_journal_while_no_daemon_is_there(server):
    """Both work read-only, say that they are not live, and their JSON is valid and has a version."""
    server.toy("truck", epochs=1)
    server.wait("truck", "SUCCEEDED")
    server.end(signal.SIGTERM)
    for verb in (["ls"], ["why", "truck"], ["show", "truck"]):
        shown = server.cli(*verb)
        assert shown.returncode == 0, shown.stderr
        assert "SUCCEEDED" in shown.stdout
        assert "daemon" in shown.stderr + shown.stdout
        view = json.loads(server.cli(*verb, "--json").stdout)
        assert view["version"] == 1
        assert view["offline"] is True
    assert server.cli("stop", "truck").returncode == 3


def test_submit_wait_and_the_other_verbs_reach_the_daemon(server):
    """`submit --wait` ends with 0 when the run succeeded; `ls --json` and `why --json` are valid JSON."""
    file = server.top / "truck.toml"
    server.toy("truck", epochs=1).rename(file)
    until(lambda: server.run("truck") is None or server.run("truck")["phase"] == "SUCCEEDED", "settled")
    file.write_text(file.read_text().replace('"truck"', '"lorry"'))
    done = server.cli("submit", str(file), "--wait", "--timeout", "30s")
    assert done.returncode == 0, done.stderr
    names = {run["name"] for run in json.loads(server.cli("ls", "--json").stdout)["runs"]}
    assert "lorry" in names
    assert json.loads(server.cli("why", "lorry", "--json").stdout)["version"] == 1
