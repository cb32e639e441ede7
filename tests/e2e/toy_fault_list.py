"""The faults that a toy trainer can have: seconds each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from daemon_harness import TOY, alive, can, job, until
from faults import (
    HANG_AFTER,
    Fault,
    Scene,
    asked_to_end,
    fewer_workers,
    goes_on,
    killed,
    named,
    resumed,
    same_attempt,
    stopped,
)

from supervisor.sources.waits import POLL_S, SHORTEST_WAIT_S

HANGS = {"restart": {"hang_after": HANG_AFTER}}


def toy(fault: str, *flags: str, at: str = "2.2", **keys: object) -> Callable[[Scene], None]:
    """A toy that has this fault in its first attempt."""
    return lambda scene: scene.train(f"{fault}@{at}", *flags, **keys)  # type: ignore[arg-type]


def always(fault: str) -> Callable[[Scene], None]:
    """A toy that has this fault in every attempt."""
    return lambda scene: scene.train("", "--fault", f"{fault}@2.2")


def wrong_flag(scene: Scene) -> None:
    """Give the trainer an argument that it does not know."""
    scene.command("--no-such-flag 3")


def own_words(scene: Scene) -> None:
    """Print what only people here know the meaning of."""
    code = "print('FlexLM: no free seats'); raise SystemExit(1)"
    scene.server.drop(f"{scene.name}.toml", job({"name": scene.name, "command": [sys.executable, "-c", code]}))


def refused_checkpoint(scene: Scene) -> None:
    """The trainer cannot read its newest checkpoint, though it looks whole: it is killed behind epoch 3."""
    scene.train("", "--refuse-epoch", "3", epochs=8)
    scene.signal(signal.SIGKILL, scene.trainer(epoch=4))


def over_time(scene: Scene) -> None:
    """The job may take three seconds."""
    scene.train(epochs=60, time_limit="3s")


def on_mount(scene: Scene) -> Path:
    """A data set on a disk of its own, bound to another place."""
    disk = scene.mount("size=1m")
    (disk / "img_0001.jpg").write_bytes(b"image")
    (disk / "data.yaml").write_text("train: .\nval: .\n", encoding="ascii")
    bound = scene.folder / "data"
    bound.mkdir()
    assert can("mount", "--bind", str(disk), str(bound))
    scene.undo.callback(subprocess.run, ["umount", "-l", str(bound)], capture_output=True, check=False)
    return bound


def unmounted(scene: Scene) -> None:
    """The mount of the data is taken away while it trains; the next image cannot be read."""
    bound = on_mount(scene)
    scene.train("data@4.2", "--data", str(bound), train={"data": str(bound / "data.yaml")})
    scene.trainer()
    assert can("umount", "-l", str(bound))


def mounted_again(scene: Scene) -> None:
    """Nothing was tried in the meantime."""
    until(lambda: scene.run()["waiting_for"] == f"mount: {scene.folder / 'data'}", "it waits for the mount")
    assert scene.server.attempts(scene.name) == [1]
    assert can("mount", "--bind", str(scene.folder / "disk"), str(scene.folder / "data"))


def vanished_image(scene: Scene) -> None:
    """An image is gone, its disk is there."""
    folder = scene.folder / "images"
    folder.mkdir()
    scene.train("data@2.2", "--data", str(folder))


def elsewhere(scene: Scene, *flags: str, epochs: int = 6) -> Path:
    """A command that saves to a small disk of its own, which only its globs name. Returns that disk."""
    disk = scene.mount("size=32m")
    words = [sys.executable, str(TOY), "--save-dir", str(disk / "train"), "--epochs", str(epochs), "--epoch-s", "0.4"]
    words += ["--beats", *flags]
    settings = {
        "name": scene.name,
        "command": words,
        "resume_command": [*words, "--resume", "{checkpoint}"],
        "checkpoint_files": [str(disk / "train" / "weights" / "last.pt")],
        "done": {"log": "epochs completed"},
    }
    scene.server.drop(f"{scene.name}.toml", job(settings))
    return disk


def read_only(scene: Scene) -> None:
    """The file system that it saves to becomes read-only."""
    disk = elsewhere(scene)
    scene.trainer(epoch=3)
    assert can("mount", "-o", "remount,ro", str(disk))


def full_elsewhere(scene: Scene) -> None:
    """Another program fills the disk that it saves to; the disk of the runs has room."""
    disk = elsewhere(scene, "--padding", str(4 * 1024 * 1024), epochs=12)
    pid = scene.trainer(epoch=3)
    while alive(pid):
        with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(65536))


def freed_elsewhere(scene: Scene) -> None:
    """The run says which disk it is, what is free there and what is needed; it waits until there is room."""
    until(lambda: scene.run()["waiting_for"] == "disk", "it waits for the disk")
    since = time.time()
    until(lambda: time.time() - since > SHORTEST_WAIT_S + 2 * POLL_S, "it was looked at, and still is full", 30)
    assert len(scene.server.attempts(scene.name)) == 1
    assert (
        f"free under {scene.folder / 'disk' / 'train' / 'weights'} (checkpoints), 8MiB are needed"
        in scene.run()["reason"]
    )
    (scene.folder / "disk" / "ballast").unlink()


def writable_again(scene: Scene) -> None:
    """A person mends it, and says so."""
    scene.server.wait(scene.name, "HELD")
    assert can("mount", "-o", "remount,rw", str(scene.folder / "disk"))
    scene.server.order("resume", scene.name)


def went_on(scene: Scene) -> None:
    """It went on behind what it had saved there."""
    [last] = scene.server.attempt(scene.name, 2).beats("resumed")
    assert last["from_epoch"] >= 0  # beats count from 0: at least the first epoch


def full(scene: Scene) -> None:
    """Another program fills the disk while it trains."""
    scene.train("", "--padding", str(4 * 1024 * 1024), epochs=12)
    pid = scene.trainer(epoch=3)
    while alive(pid):  # what the trainer truncates is taken before it writes it anew
        with contextlib.suppress(OSError), (scene.server.runs_dir / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(65536))


def no_inodes(scene: Scene) -> None:
    """Another program makes so many files that no more can be made."""
    scene.train("new-file@4.2", epochs=8)
    scene.trainer()
    (scene.server.runs_dir / "ballast").mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (scene.server.runs_dir / "ballast" / str(number)).touch()


def freed(scene: Scene) -> None:
    """A person makes room."""
    until(lambda: scene.run()["waiting_for"] == "disk", "it waits for the disk")
    assert len(scene.server.attempts(scene.name)) == 1
    subprocess.run(["rm", "-r", str(scene.server.runs_dir / "ballast")], check=True)


def blocked_worker(scene: Scene) -> None:
    """An image is a pipe into which nobody writes."""
    os.mkfifo(scene.folder / "img_0412.jpg")
    scene.train("fifo@2.2", "--data", str(scene.folder), **HANGS)


def spin_unexpected(scene: Scene) -> None:
    """It computes for ever at one line, and nobody has said how long it may stand still: forty looks have taught that."""
    scene.train("spin@3.2", "--batches", "40", "--epoch-s", "20", epochs=3)


by_the_kernel = named("oom-killer", "out-of-memory", "Killed process")

TOY_FAULTS = (
    # ---- memory and limits
    Fault("memory", toy("memory"), (("host-oom", "wait-memory"),), check=resumed),
    Fault("cgroup-memory", toy("eat"), (("host-oom", "wait-memory"),), check=by_the_kernel, ground="little memory"),
    Fault("threads", toy("threads"), (("too-many-processes", "workers"),), check=fewer_workers),
    Fault("open-files", toy("files"), (("too-many-open-files", "workers"),), check=fewer_workers),
    Fault("processor-time", toy("processor-time"), (("cpu-time-limit", "backoff"),), check=resumed),
    Fault("time-limit", over_time, (), "HELD"),
    # ---- code and environment
    Fault("bug-once", toy("bug"), (("code-error", "backoff"),), check=resumed),
    Fault("bug-always", always("bug"), (("code-error", "backoff"), ("code-error", "fail")), "FAILED"),
    Fault("missing-package", toy("module"), (("package-missing", "hold"),), "HELD", check=named("a_module_that_nobody_has")),
    Fault("bad-argument", wrong_flag, (("bad-argument", "fail"),), "FAILED", check=named("--no-such-flag")),
    Fault("user-rule", own_words, (("licence", "hold"),), "HELD", check=named("FlexLM")),
    Fault("segmentation-fault", toy("crash"), (("native-crash", "backoff"),), check=resumed),
    Fault("abort", toy("abort"), (("native-crash", "backoff"),), check=resumed),
    Fault("port", toy("port"), (("port-in-use", "retry"),), check=resumed),
    Fault("nan", toy("nan", at="3.2"), (("nan", "checkpoint"),), check=resumed),
    Fault("rank-killed", toy("rank"), (("killed", "backoff"),), check=resumed),
    Fault("refused-checkpoint", refused_checkpoint, (("killed", "backoff"), ("checkpoint-corrupt", "checkpoint")), check=resumed),
    # ---- people
    Fault("killed", killed, (("killed", "backoff"),), check=resumed),
    Fault("terminated", toy("terminated"), (("terminated", "backoff"),), check=resumed),
    Fault("asked-to-end", asked_to_end, (), check=resumed),
    Fault("interrupted", toy("interrupted"), (("interrupted", "hold"),), "HELD"),
    # ---- disks and data
    Fault("disk-full", full, (("disk-full", "wait-disk"),), mend=freed, check=resumed, ground="small disk"),
    Fault("full-elsewhere", full_elsewhere, (("disk-full", "wait-disk"),), mend=freed_elsewhere, check=went_on),
    Fault("inodes", no_inodes, (("disk-full", "wait-disk"),), mend=freed, check=resumed, ground="few inodes"),
    Fault("read-only", read_only, (("read-only", "hold"),), mend=writable_again, check=went_on),
    Fault("unmounted", unmounted, (("mount-gone", "wait-mount"),), mend=mounted_again, check=resumed),
    Fault("permission", toy("permission"), (("permission", "hold"),), "HELD", check=named("img_0412.jpg")),
    Fault("input-output", toy("unreadable"), (("io-error", "backoff"),), check=resumed),
    Fault("image-gone", vanished_image, (("input-missing", "hold"),), "HELD", check=named("img_0001.jpg")),
    Fault("image-cut", toy("image"), (("image-corrupt", "retry"),), check=resumed),
    # ---- hangs
    Fault("silent-hang", toy("silent", **HANGS), (("hang", "retry"),), check=resumed),
    Fault("spin", toy("spin", **HANGS), (("hang", "retry"),), check=resumed),
    Fault("stubborn", toy("stubborn", **HANGS), (("hang", "retry"),), check=resumed),
    Fault("hang-before-batch", toy("silent", at="1.0", **HANGS), (("hang-start", "retry"),)),
    Fault("blocked-worker", blocked_worker, (("hang-loader", "retry"),), check=named("img_0412.jpg")),
    Fault("shm-full", toy("shared-memory", **HANGS), (("hang-shm", "workers"),), check=fewer_workers),
    Fault("learned-spin", spin_unexpected, (("hang", "retry"),), check=named("same lines"), slow=True, patience_s=420),
    Fault("stopped", stopped, (), told="stopped", mend=goes_on, check=same_attempt),
)  # fmt: skip
