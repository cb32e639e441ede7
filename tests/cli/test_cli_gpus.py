"""`gpus` and `gpu …`: what people and programs see, with the daemon and without, and what the exit codes say."""

from __future__ import annotations

import json
import re
import stat
import tarfile

import msgspec
import pytest

from supervisor.core import events
from tests.cli.conftest import process
from tests.cli.test_cli_reading import on_terminal
from tests.web import gpu_room as room


@pytest.fixture
def server(daemon):
    """Eight GPUs: two in use, one lost, one with somebody else's process, one hot, one drained."""
    room.install(daemon)
    daemon.launch("truck", gpus=2)
    room.lose(daemon, 3)
    room.hold(daemon, 4)
    room.trouble(daemon, 5, "too-hot", "88 °C, 1 °C below its limit")
    daemon.readings[room.uuid(5)] = room.reading(daemon, 5, temperature_c=88, margin_c=1)
    daemon.put(events.GpuOrdered(at=daemon.clock.now(), gpu=room.uuid(6), what="drain", by="bob (uid 1000) via CLI"))
    daemon.readings[room.uuid(0)] = room.reading(daemon, 0, gpu_utilization=0.98, memory_used_bytes=36.1 * room.GIB)
    return daemon


def table(text):
    """The rows of the list by index."""
    return {int(found[1]): line for line in text.splitlines() if (found := re.match(r"\s*(\d+) {2,}\S", line))}


# ---- the list
def test_gpus_for_people(server, cli):
    """A headline, a row for each GPU, what is wrong with what to do, and nothing that is 0 for missing."""
    done = cli("gpus")
    assert done.exit_code == 0
    head = " ".join(done.stdout.partition("\nGPU ")[0].split())
    assert head.startswith("8 x NVIDIA L40S, driver 580.65.06, 4 of 8 usable (GPU 3 is lost, GPU 4 is in use by others")
    found = table(done.stdout)
    assert set(found) == set(range(8))
    assert re.search(r"busy +41 °C +35/350 W +36.1/48 GiB +98 % +truck for", found[0])
    assert re.search(r"lost, in quarantine +error +it answers", found[3])
    assert "pid 4242 of alice holds 18 GiB" in found[4]
    assert "restart the machine; if it comes again" in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout


def test_gpus_for_programs(server, cli):
    """--json has a version, every GPU with its state, and for a lost one errors in place of values."""
    view = json.loads(cli("gpus", "--json").stdout)
    assert (view["version"], view["usable"], len(view["gpus"])) == (1, 4, 8)
    lost = view["gpus"][3]
    assert (lost["state"], lost["values"]["power_w"]) == ("lost", {"error": "GPU_IS_LOST"})
    assert lost["todo"]


def test_who_waits_is_told_with_who_is_in_the_way(server, cli):
    """In `gpus`, in `ls` and in `show` alike."""
    server.accept("bus", gpus=1, gpu=msgspec.convert({"named": ["4"]}, type(server.world.live["truck@1"].job.gpu)))
    assert "bus waits for GPU 4: pid 4242 of alice holds 18 GiB (for" in cli("gpus").stdout
    assert "GPU 4 is in use: pid 4242" in cli("ls").stdout
    assert "GPU: GPU" not in cli("ls").stdout
    assert "waits for GPU 4: pid 4242 of alice holds 18 GiB" in cli("show", "bus").stdout
    assert "GPUs: 4 of 8 usable (GPU 3 is lost" in cli("status").stdout


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_list_fits_the_terminal(server, columns):
    """At any width each line fits, each head is whole, and no number is cut; with room there are bars."""
    text = on_terminal(["--socket", str(server.socket_path), "gpus"], {"NO_COLOR": "1"}, columns)
    lines = [line for line in text.splitlines() if "`" not in line and "GPU-" not in line]
    assert all(len(line) <= columns for line in lines), text
    found = table(text)
    assert "36.1/48 GiB" in found[0]
    assert "truck" in found[0]
    assert ("█" in found[0]) is (columns >= 96)


def test_colours_are_for_terminals_only(server, cli):
    """NO_COLOR and pipes have none; on a terminal a hot GPU's temperature is red."""
    coloured = on_terminal(["--socket", str(server.socket_path), "gpus"], {}, 120)
    assert re.search(r"\x1b\[31m *88 °C", coloured), coloured
    assert "\x1b" not in on_terminal(["--socket", str(server.socket_path), "gpus"], {"NO_COLOR": "1"}, 120).replace(
        "\x1b[0m", ""
    )
    assert "\x1b" not in cli("gpus").stdout


def test_old_values_are_marked(server, cli):
    """With ? behind the number, and a word on what that means."""
    server.clock.at += 60
    done = cli("gpus")
    assert re.search(r"41 °C\? +35/350 W\? +36.1/48 GiB\? +98 %\?", table(done.stdout)[0])
    assert "a value with ? is old" in done.stderr


def test_names_are_shown_where_cards_differ(server, cli):
    """One column less where all are the same."""
    assert "NAME" not in cli("gpus").stdout.partition("STATE")[0]
    gpus = tuple(room.facts(index, name="NVIDIA T4" if index == 7 else room.NAME) for index in range(8))
    server.put(events.GpusSeen(at=server.clock.now(), state="ok", gpus=gpus))
    assert "NVIDIA T4" in table(cli("gpus").stdout)[7]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("no-library", "NVIDIA's library is not found"),
        ("version-mismatch", "the driver was upgraded"),
        ("none", "finds no GPU"),
    ],
)
def test_a_driver_in_trouble_is_told_with_what_to_do(daemon, cli, state, told):
    """Also where there is no GPU at all."""
    room.install(daemon, 0)
    daemon.put(events.GpusSeen(at=daemon.clock.now(), state=state, text="in its own words"))
    text = " ".join(cli("gpus").stdout.split())
    assert told in text
    assert "you can" in text
    assert "in its own words" in text


def test_a_driver_in_trouble_is_told_once_for_all_gpus(server, cli):
    """Not again in each row, and what helps once."""
    told = "the driver was upgraded, but the old one is still loaded; restart the machine soon"
    server.put(events.GpusSeen(at=server.clock.now(), state="version-mismatch", text=told))
    text = " ".join(cli("gpus").stdout.split())
    assert text.count("is still loaded") == 2  # headline and driver
    assert text.count("restart the machine soon") == 1
    assert text.count("unreachable") == 8


def test_a_drain_has_a_reason_and_lasts_a_year_at_most(server, cli):
    """Whoever comes next reads why."""
    assert "--for: at most a year" in cli("gpu", "drain", "0", "--for", "900d").stderr
    cli("gpu", "drain", "0", "--reason", "a fan is changed")
    assert "a fan is changed" in cli("gpu", "show", "0").stdout
    assert json.loads(cli("gpu", "show", "0", "--json").stdout)["drain"]["reason"] == "a fan is changed"


def test_a_kernel_log_that_is_not_followed_is_told(server, cli):
    """It is where errors of GPUs stand first."""
    server.kernel = "not followed: /dev/kmsg may not be read"
    assert "kernel log: not followed: /dev/kmsg may not be read" in cli("gpus").stderr
    assert "kernel log: not followed: /dev/kmsg may not be read" in cli("status").stdout


# ---- without a daemon
def test_without_a_daemon_the_journal_tells_what_is_known(server, cli):
    """States and runs, but no values: they are not live, and that is said."""
    config = server.write_config()
    server.api.stop()
    done = process("--config", config, "gpus")
    assert done.returncode == 0
    assert "lost" in table(done.stdout)[3]
    assert " TEMP " not in done.stdout
    assert "not live" in done.stderr
    shown = process("--config", config, "gpu", "show", "3e:00.0")
    assert shown.returncode == 0
    assert "Xid 79" in shown.stdout
    view = json.loads(process("--config", config, "gpus", "--json").stdout)
    assert view["offline"] is True
    assert view["gpus"][0]["values"]["temperature_c"] == {"unknown": True}
    assert process("--config", config, "gpu", "show", "99").returncode == 5
    assert process("--config", config, "gpu", "drain", "3").returncode == 3


# ---- one GPU
def test_show_tells_everything_of_a_gpu(server, cli):
    """Who it is, what it does, its health, its record and what happened last."""
    text = " ".join(cli("gpu", "show", "0").stdout.split())
    for part in (
        "GPU 0 (NVIDIA L40S, 3b:00.0) busy",
        room.uuid(0),
        "NUMA node 0, NVLink to GPU 1",
        "run truck attempt 1",
        "memory 36.1GiB of 48GiB",
        "temperature 41 °C, 42 °C below its limit",
        "power 35 of 350 W",
        "load 98 %",
        "ECC errors 0 not corrected",
        "16 of 16 lanes, generation 4 of 4, 0 repeats",
        "1 attempt",
    ):
        assert part in text, text
    assert "None" not in text
    lost = " ".join(cli("gpu", "show", "3").stdout.split())
    for part in (
        "values cannot be read (GPU_IS_LOST)",
        "1 x Xid 79",
        "quarantine since",
        "what was reported last:",
        "restart the machine",
    ):
        assert part in lost, lost
    assert "pid 4242 of alice (python infer.py) holds 18GiB" in cli("gpu", "show", "4").stdout


def test_show_for_programs(server, cli):
    """--json has the record and the events."""
    view = json.loads(cli("gpu", "show", room.uuid(3)[:8], "--json").stdout)
    assert (view["version"], view["index"], view["passport"]["xids"][0]["xid"]) == (1, 3, 79)


# ---- orders
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["drain", "7"], 0, "nothing new starts on GPU 7 until `gpu undrain 7`"),
        (["drain", "7", "--for", "2h"], 0, "nothing new starts on GPU 7 for 2 h"),
        (["drain", "6"], 0, "is drained already, by bob; nothing was changed"),
        (["undrain", "6"], 0, "the drain of GPU 6 is over; it is given out again"),
        (["undrain", "7"], 0, "nothing was changed"),
        (["quarantine", "7", "--reason", "its fan rattles"], 0, "GPU 7 is in quarantine"),
        (["test", "7"], 0, "GPU 7 is"),
        (["release", "7"], 4, "not in quarantine"),
        (["release", "3"], 4, "--force"),
        (["release", "3", "--force"], 0, "out of quarantine, untested"),
        (["drain", "9"], 5, "there are GPUs 0 to 7"),
        (["show", "9"], 5, "there are GPUs 0 to 7"),
        (["drain", "7", "--for", "soon"], 2, "--for: this is not a duration"),
        (["drain", "7", "--for", "0s"], 2, "--for"),
        (["drain"], 2, "GPU"),
        (["melt", "7"], 2, "melt"),
    ],
)
def test_orders_say_what_happens_next(server, cli, arguments, code, text):
    """With the contract's exit codes."""
    done = cli("gpu", *arguments)
    assert done.exit_code == code, done.output
    assert text in done.output


def test_orders_for_programs(server, cli):
    """--json has the sentence and the GPU."""
    answer = json.loads(cli("gpu", "drain", "7", "--json").stdout)
    assert (answer["version"], answer["done"], answer["gpu"]["state"]) == (1, True, "drained")


@pytest.mark.parametrize(
    "verb",
    [["gpus"], *(["gpu", verb] for verb in ("show", "drain", "undrain", "quarantine", "release", "test", "bundle"))],
)
def test_every_verb_has_examples(cli, verb):
    """The help of each shows how it is used."""
    help_text = cli(*verb, "--help").stdout
    assert "Examples:" in help_text
    assert f"yolo-supervisor {' '.join(verb)}" in help_text
    assert "--json" in help_text


# ---- the bundle
def test_bundle_writes_one_file_and_says_what_is_missing(server, cli, tmp_path):
    """Mode 0600; what could not be had is told; a file that is there stays."""
    path = tmp_path / "gpu3.tar.gz"
    done = cli("gpu", "bundle", "3", "-o", path)
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in done.stdout
    assert "not in it: " in done.stderr
    with tarfile.open(path) as tar:
        events_told = json.load(tar.extractfile("gpu-bundle-3/events.json"))
        assert {event["kind"] for event in events_told} == {"XidSeen", "GpuFound"}
        assert json.load(tar.extractfile("gpu-bundle-3/passport.json"))["quarantines"] == 1
    again = cli("gpu", "bundle", "3", "-o", path)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert cli("gpu", "bundle", "3", "-o", tmp_path / "no/such/folder.tar.gz").exit_code == 1


def test_bundle_works_without_a_daemon(server, tmp_path):
    """From the journal; the file gets a name of its own where none was given."""
    config = server.write_config()
    server.api.stop()
    done = process("--config", config, "gpu", "bundle", "3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["daemon"]) == (1, "did not run: values are not live")
    [path] = tmp_path.glob("gpu-3-*.tar.gz")
    assert answer["file"] == str(path)


def test_bundle_without_a_readable_configuration(server, cli, tmp_path):
    """It is made all the same, and the person is told what that means for its secrets."""
    done = cli("--config", tmp_path / "none.toml", "gpu", "bundle", "3", "-o", tmp_path / "gpu3.tar.gz")
    assert done.exit_code == 0, done.output
    assert "only taken out where it looks so" in done.stderr


def test_the_shell_completes_indices_and_uuids(server):
    """And says nothing where no daemon answers."""
    import click

    from supervisor.cli.client import Target, complete_gpu

    def completed(socket, text):
        context = click.Context(click.Command("x"), obj=Target(str(socket)))
        return complete_gpu(context, click.Argument(["gpu"]), text)

    assert completed(server.socket_path, "3") == ["3"]
    assert completed(server.socket_path, "GPU-3") == [room.uuid(3)]
    assert completed(server.root / "none", "3") == []


def test_watching_shows_it_anew(server, cli, monkeypatch):
    """Until Ctrl-C; each look is a new one."""
    from supervisor.cli import gpus

    def later(_seconds):
        if not looks:
            raise KeyboardInterrupt
        looks.pop()
        room.lose(server, 7)

    looks = [1]
    monkeypatch.setattr(gpus.time, "sleep", later)
    shown = cli("gpus", "--watch").stdout
    assert shown.count("8 x NVIDIA L40S") == 2
    assert shown.count("GPU 7 is lost") == 1
