"""The bundle about a GPU: what is in it, what is never in it, and what is said of what is missing."""

from __future__ import annotations

import getpass
import json
import os
import socket
import stat
import tarfile

import pytest

from supervisor import attempt_files
from supervisor.attempt_files import Launch, Train
from supervisor.config import Channel, Config, Defaults, Gpu, Server
from supervisor.effects import gpu_bundle, gpu_bundle_parts
from tests.web import gpu_room as room

SECRETS = {
    "env": "planted-env-8fd1",
    "settings": "planted-settings-93aa",
    "argument": "planted-argument-71cc",
    "log": "planted-log-55e0",
    "config": "planted-config-20b7",
    "webhook": "planted-webhook-d4f6",
    "holder": "planted-holder-6c2e",
    "event": "planted-event-a0b9",
    "own": "planted-own-b7e3",
    "kernel": "planted-kernel-33d1",
}
UUID = room.uuid(3)


def a_view(folder, **fields):
    known = {
        "version": 1, "index": 3, "uuid": UUID, "label": "GPU 3 (NVIDIA L40S, 3e:00.0)", "bus_id": room.bus_id(3),
        "state": "lost", "driver": {"state": "ok", "version": "580.65.06"}, "holders": [], "passport": {"notes": []},
        "history": [], "attempts": [], "values": {"temperature_c": {"error": "GPU_IS_LOST"}},
    }  # fmt: skip
    if folder is not None:
        known["attempts"] = [
            {"run": "truck@1", "project": "p", "name": "truck", "attempt": 2, "directory": str(folder)}
        ]
    return {**known, **fields}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A machine with a PCI tree, a kernel log, a vendor's program and two attempts."""
    attempts = tmp_path / "runs/p/truck/attempts"
    for number, shown in ((1, UUID), (2, UUID)):
        folder = attempts / str(number)
        (folder / "autopsy").mkdir(parents=True)
        env = {"CUDA_VISIBLE_DEVICES": shown, "WANDB_API_KEY": SECRETS["env"], "HOME": "/home/carol"}
        train = Train(
            args={}, device="0", save_dir="/x", run_token_file="/x/t", settings={"hub_api_key": SECRETS["settings"]}
        )
        argv = ("python", "train.py", "--hub-token", SECRETS["argument"])
        launch = Launch(
            run="truck@1", attempt=number, token=1, argv=argv, env=env, cwd="/", umask=18, log_max_bytes=0, train=train
        )
        attempt_files.write_launch(folder, launch)
        log = f"attempt {number}\nusing {SECRETS['env']} {SECRETS['settings']} {SECRETS['argument']}\nPASSWORD={SECRETS['log']}\n"
        log += f"told {SECRETS['webhook']} and {SECRETS['config']} and {SECRETS['own']}\n"
        (folder / "log").write_text(log + "reading /home/carol/data\nRuntimeError: CUDA error\n")
        (folder / "exit.json").write_text('{"code": 1}')
        (folder / "autopsy" / "stacks.txt").write_text(f"carol ran python --hub-token {SECRETS['argument']}\n")
    device = tmp_path / "pci/0000:3e:00.0"
    device.mkdir(parents=True)
    (device / "current_link_width").write_text("8\n")
    kmsg = tmp_path / "kmsg"
    kmsg.write_text(
        "3,1,1000000,-;NVRM: Xid (PCI:0000:3e:00): 79, GPU has fallen off the bus.\n"
        f"12,2,1500000,-;NVRM: forged by a program, TOKEN={SECRETS['kernel']}\n"
        "6,3,2000000,-;usb 1-1: new device\n3,4,2500000,-;pcieport 0000:3a:00.0: AER: Corrected error\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "nvidia-smi").write_text('#!/bin/sh\necho "asked: $*"\necho "Process: /home/carol/env/bin/python"\n')
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("MY_PASSWORD", SECRETS["own"])
    settings = Config(
        server=Server(name="the-gpu-box", state_dir=tmp_path, runs_dir=tmp_path / "runs"),
        defaults=Defaults(env={"S3_SECRET": SECRETS["config"]}),
        gpu=Gpu(kmsg=str(kmsg), pci=tmp_path / "pci"),
        channel=(Channel(name="ops", kind="slack", url=f"https://hooks.slack.com/services/{SECRETS['webhook']}"),),
    )
    return tmp_path, attempts / "2", settings


def written(place, *, redact=True, **fields):
    root, attempt, settings = place
    path = root / "bundle.tar.gz"
    manifest = gpu_bundle.write(path, a_view(attempt, **fields), settings, redact=redact)
    with tarfile.open(path) as tar:
        members = {entry.name.removeprefix("gpu-bundle-3/"): tar.extractfile(entry).read().decode() for entry in tar}
        entries = tar.getmembers()
    return path, manifest, members, entries


def test_the_bundle_holds_the_evidence(place):
    """State, record, events, versions, bus, vendor's words, kernel log, and the ends of the attempts on that GPU."""
    path, manifest, members, _ = written(place)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(members) >= {
        "MANIFEST.json", "gpu.json", "passport.json", "events.json", "versions.json", "pci.json", "nvidia-smi.txt",
        "kernel-log.txt", "attempts/truck-1-2/log.txt", "attempts/truck-1/log.txt", "attempts/truck-1-2/exit.json",
        "attempts/truck-1-2/autopsy/stacks.txt",
    }  # fmt: skip
    assert f"-q -i {UUID}" in members["nvidia-smi.txt"]
    assert "CUDA error" in members["attempts/truck-1-2/log.txt"]
    assert json.loads(members["pci.json"])["device"] == {"current_link_width": "8"}
    assert json.loads(members["MANIFEST.json"]) == json.loads(json.dumps(manifest))
    listed = {member["name"]: member["bytes"] for member in manifest["members"]}
    assert listed == {name: len(text.encode()) for name, text in members.items() if name != "MANIFEST.json"}


def test_the_kernel_log_has_the_kernels_own_lines_only(place):
    """The driver's and the bus's; nothing of other devices, and nothing that a program wrote."""
    lines = written(place)[2]["kernel-log.txt"].splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "NVRM: Xid (PCI:0000:3e:00): 79, GPU has fallen off the bus.",
        "pcieport 0000:3a:00.0: AER: Corrected error",
    ]


@pytest.mark.parametrize("redact", [True, False])
def test_no_planted_secret_is_in_any_member(place, redact):
    """From environments, settings, command lines, logs, the configuration, other processes and events: none, ever."""
    holder = {"pid": 1, "user": "dave", "command": f"python infer.py --api-key {SECRETS['holder']}", "used_bytes": None}
    history = [
        {
            "kind": "GpuOrdered",
            "what": f"bob wants it: token={SECRETS['event']}",
            "body": {"reason": f"token={SECRETS['event']}"},
        }
    ]
    path, _, members, entries = written(place, redact=redact, holders=[holder], history=history)
    for what, secret in SECRETS.items():
        assert not [name for name, text in members.items() if secret in text], what
    assert "launch.json" not in "".join(entry.name for entry in entries)
    with tarfile.open(path) as tar:
        assert not [one for one in tar.getmembers() for secret in SECRETS.values() if secret in one.name]


def test_names_of_people_and_of_the_host_are_replaced(place):
    """By words that stay the same, in every member and in the archive's own fields."""
    holder = {"pid": 1, "user": "dave", "command": "python", "used_bytes": None}
    history = [{"kind": "GpuOrdered", "what": "erin (uid 1005) via CLI drained it on the-gpu-box"}]
    _, _, members, entries = written(place, holders=[holder], history=history)
    whole = "\n".join(members.values())
    for name in ("carol", "dave", "erin", "the-gpu-box"):
        assert name not in whole, name
    assert "reading /home/user" in members["attempts/truck-1-2/log.txt"]
    assert {(entry.uname, entry.gname, entry.uid, entry.gid) for entry in entries} == {("", "", 0, 0)}


def test_names_stay_with_no_redact(place):
    """Where whoever asks wants them in it, and the manifest says so."""
    _, manifest, members, _ = written(place, redact=False)
    assert "/home/carol/data" in members["attempts/truck-1-2/log.txt"]
    assert "left in" in manifest["redacted"]["names"]


def test_an_older_attempt_on_another_gpu_stays_out(place):
    """Only logs of trainings that had this GPU."""
    _, attempt, _ = place
    folder = attempt.with_name("1")
    launch = attempt_files.read_launch(folder)
    other = {**launch.env, "CUDA_VISIBLE_DEVICES": room.uuid(4)}
    attempt_files.write_launch(
        folder, Launch(**{**{name: getattr(launch, name) for name in launch.__struct_fields__}, "env": other})
    )
    assert "attempts/truck-1/log.txt" not in written(place)[2]


def test_what_is_missing_is_named_with_the_reason(place, monkeypatch):
    """Nothing is passed over: no program, no log, no bus id, a pipe in place of the kernel log."""
    root, attempt, settings = place
    (attempt / "log").unlink()
    (root / "bin/nvidia-smi").unlink()
    os.mkfifo(root / "fifo")
    settings = Config(server=settings.server, gpu=Gpu(kmsg=str(root / "fifo"), pci=root / "pci"))
    _, manifest, members, _ = written((root, attempt, settings), bus_id=None)
    why = {one["what"]: one["why"] for one in manifest["left_out"]}
    assert why["nvidia-smi.txt"] == "nvidia-smi is not installed"
    assert why["pci.json"] == "its place on the bus is not known"
    assert "is a pipe" in why["kernel-log.txt"]
    assert "No such file" in why["attempts/truck-1-2/log.txt"]
    assert "nvidia-smi.txt" not in members


def test_a_driver_that_hangs_is_not_asked_once_more(place):
    """The vendor's program would hang as well."""
    _, manifest, _, _ = written(place, state="unresponsive")
    assert any(one["what"] == "nvidia-smi.txt" and "hang" in one["why"] for one in manifest["left_out"])


def test_a_program_that_hangs_is_left_after_its_time(place, monkeypatch):
    """The bundle is made all the same."""
    root, _, _ = place
    (root / "bin/nvidia-smi").write_text("#!/bin/sh\nsleep 60 & wait\n")
    monkeypatch.setattr(gpu_bundle_parts, "SMI_S", 0.2)
    _, manifest, members, _ = written(place)
    assert any(one["what"] == "nvidia-smi.txt" and "no answer within" in one["why"] for one in manifest["left_out"])
    assert "gpu.json" in members


def test_of_a_program_without_end_the_end_is_kept(place):
    """However much it writes, no more than a file of the bundle may have is held."""
    root, _, _ = place
    (root / "bin/nvidia-smi").write_text("#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end\n")
    text = written(place)[2]["nvidia-smi.txt"]
    assert text.endswith("x\nthe end\n")
    assert len(text) <= gpu_bundle_parts.FILE_BYTES


def test_large_logs_are_cut_and_the_cut_is_told(place):
    """The end of a log is what tells; a line that would be half is left out, for half a secret is not known as one."""
    _, attempt, _ = place
    line = f"PASSWORD={SECRETS['log']}\n"
    (attempt / "log").write_text(line * 6000 + "the end\n")
    _, manifest, members, _ = written(place)
    text = members["attempts/truck-1-2/log.txt"]
    assert len(text) < gpu_bundle_parts.LOG_BYTES
    assert text.endswith("the end\n")
    assert text.startswith("PASSWORD=(hidden)\n")
    assert "bytes" in next(one["cut"] for one in manifest["members"] if one["name"] == "attempts/truck-1-2/log.txt")


def test_a_bundle_has_room_for_so_much(place, monkeypatch):
    """What would make it too large is left out by name; what tells most comes first."""
    monkeypatch.setattr(gpu_bundle, "LARGEST_BYTES", 900)
    _, manifest, members, _ = written(place)
    assert "gpu.json" in members
    assert "the bundle would be too large" in {one["why"] for one in manifest["left_out"]}


def test_a_file_that_is_there_is_not_overwritten(place):
    """And one that cannot be finished is not left behind."""
    root, attempt, settings = place
    (root / "bundle.tar.gz").write_text("mine")
    with pytest.raises(FileExistsError):
        gpu_bundle.write(root / "bundle.tar.gz", a_view(attempt), settings)
    assert (root / "bundle.tar.gz").read_text() == "mine"
    with pytest.raises(KeyError):
        gpu_bundle.write(root / "other.tar.gz", {"index": 3}, settings)
    assert not (root / "other.tar.gz").exists()


def test_this_machine_and_its_user_are_known(place):
    """The host's own name and whoever makes the bundle are replaced without being told."""
    me = getpass.getuser()
    history = [{"what": f"on {socket.gethostname()} by {me}"}]
    text = written(place, history=history)[2]["events.json"]
    assert socket.gethostname() not in text
    assert me == "root" or f"by {me}" not in text
