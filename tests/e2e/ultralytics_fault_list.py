"""The faults that real trainings have: Ultralytics and torch on a CPU, a data set of boxes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from daemon_harness import MODEL, REPOSITORY, TESTS, Site, can, job, needs, until
from faults import GROUNDS, Fault, Scene, goes_on, named, plain, resumed, same_attempt

PYTHON = Path(os.environ.get("YOLO_SUPERVISOR_TRAIN_PYTHON", REPOSITORY / ".venv-train" / "bin" / "python"))
#: Imports and the label scan take some seconds, without a word, and longer on a busy machine.
HANG_AFTER = "20s"
IMAGE = "00011.jpg"
SMALL_SHM = 'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec "$@"'
#: Ultralytics loads the images of a CPU training itself. With this on PYTHONPATH as many workers do it as it was told.
WORKERS = """
import importlib.abc, importlib.machinery, json, os, sys

def told():
    with open(os.path.join(os.environ["YOLO_SUPERVISOR_ATTEMPT_DIR"], "launch.json")) as file:
        return json.load(file)["train"]["args"]["workers"]

class Loader(importlib.abc.Loader):
    def __init__(self, loader):
        self.loader = loader
    def create_module(self, spec):
        return self.loader.create_module(spec)
    def exec_module(self, module):
        self.loader.exec_module(module)
        build = module.build_dataloader
        def with_workers(dataset, batch, workers, *given, **named):
            return build(dataset, batch, told(), *given, **named)
        module.build_dataloader = with_workers

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "ultralytics.data.build":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Loader(spec.loader)
        return spec

sys.meta_path.insert(0, Finder())
"""
RANKS = """
import os, pathlib, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
once = pathlib.Path(sys.argv[1])
again = once.exists()
dist.barrier()
once.touch()
pathlib.Path(sys.argv[1] + os.environ["RANK"]).write_text(str(os.getpid()))
while not again:
    dist.all_reduce(torch.ones(4))
    time.sleep(0.1)
dist.destroy_process_group()
"""


@contextlib.contextmanager
def ultralytics(prefix: tuple[str, ...] = ()) -> Iterator[Site]:
    """A server with a data set, whose trainings are real."""
    needs(PYTHON.exists(), f"an interpreter with Ultralytics at {PYTHON} (YOLO_SUPERVISOR_TRAIN_PYTHON)")
    with plain(prefix) as made:
        generator = [PYTHON, TESTS / "training_data.py", made.root / "boxes", "--train", "48", "--val", "4"]
        subprocess.run(generator, check=True, capture_output=True)
        yield made


@contextlib.contextmanager
def little_shm() -> Iterator[Site]:
    """The same, and /dev/shm has room for nearly nothing."""
    needs(can("unshare", "-m", "true"), "root and mount namespaces")
    with ultralytics(("unshare", "-m", "sh", "-c", SMALL_SHM, "sh")) as made:
        yield made


GROUNDS |= {"ultralytics": ultralytics, "little shm": little_shm}


# ---- trainings
def boxes(scene: Scene) -> Path:
    """A data set of the scene's own."""
    data = scene.folder / "boxes"
    shutil.copytree(scene.server.root / "boxes", data)
    text = (data / "data.yaml").read_text(encoding="utf-8")
    (data / "data.yaml").write_text(text.replace(str(scene.server.root / "boxes"), str(data)), encoding="utf-8")
    return data


def train(scene: Scene, keys: dict[str, object] | None = None, **arguments: object) -> Path:
    """Start a real training; its data set."""
    data = scene.folder / "boxes" if (scene.folder / "boxes").exists() else boxes(scene)
    given = {
        "model": str(MODEL), "data": str(data / "data.yaml"), "epochs": 8, "batch": 2, "imgsz": 64, "workers": 0,
        "plots": False, **arguments,
    }  # fmt: skip
    (scene.folder / "sitecustomize.py").write_text(WORKERS, encoding="ascii")
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(scene.folder)}
    settings = {"name": scene.name, "python": str(PYTHON), "env": env, **(keys or {})}
    scene.server.drop(f"{scene.name}.toml", job({**settings, "train": given}))
    return data


def in_second_epoch(scene: Scene) -> int:
    """The trainer, with one epoch saved."""
    scene.server.attempt(scene.name).wait_for_beat("saved", 90, epoch=0)
    return scene.trainer(epoch=2)


def worker_of(pid: int) -> int:
    """A dataloader's worker of a trainer."""

    def look() -> int:
        with contextlib.suppress(FileNotFoundError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
                if Path(f"/proc/{child}/comm").read_text(encoding="ascii").startswith("pt_data_worker"):
                    return int(child)
        return 0

    return until(look, f"a dataloader's worker of {pid}")


# ---- what goes wrong
def deadlock(scene: Scene) -> None:
    """An image becomes a pipe into which nobody writes: a worker waits for it, and the trainer for the worker."""
    data = train(scene, {"restart": {"hang_after": HANG_AFTER}}, workers=1, epochs=5)
    in_second_epoch(scene)
    image = data / "images" / "train" / IMAGE
    image.rename(scene.folder / IMAGE)
    os.mkfifo(image)


def bring_back(scene: Scene) -> None:
    """The image is there again."""
    (scene.folder / IMAGE).rename(scene.folder / "boxes" / "images" / "train" / IMAGE)


def killed_worker(scene: Scene) -> None:
    """Somebody, or the kernel, kills a worker."""
    train(scene, workers=1)
    scene.signal(signal.SIGKILL, worker_of(in_second_epoch(scene)))


def huge_steps(scene: Scene) -> None:
    """The highest learning rate that may be given, on a loss that is as much too large: no training survives that."""
    train(scene, lr0=1.0, cls=1e39, optimizer="SGD")


def moved(scene: Scene) -> None:
    """The folder of the images gets another name."""
    data = train(scene)
    in_second_epoch(scene)
    scene.struck_at = time.time()
    (data / "images").rename(data / "pictures")


def vanished(scene: Scene) -> None:
    """One image is deleted."""
    data = train(scene)
    in_second_epoch(scene)
    (data / "images" / "train" / IMAGE).unlink()


def cut(scene: Scene) -> None:
    """One image is cut in the middle, and its beginning is damaged."""
    data = train(scene)
    in_second_epoch(scene)
    (data / "images" / "train" / IMAGE).write_bytes(bytes(100))


def wrong_names(scene: Scene) -> None:
    """data.yaml names two classes and says that there are three."""
    with (boxes(scene) / "data.yaml").open("a", encoding="utf-8") as file:
        file.write("nc: 3\n")
    train(scene)


def wrong_labels(scene: Scene) -> None:
    """All labels are of a class that data.yaml does not have."""
    for path in (boxes(scene) / "labels").rglob("*.txt"):
        path.write_text("7 0.5 0.5 0.2 0.2\n", encoding="ascii")
    train(scene)


def frozen(scene: Scene) -> None:
    """Nothing is left that could be trained."""
    train(scene, freeze=99)


def missing_package(scene: Scene) -> None:
    """A package of the environment imports one that is not there any more."""
    (scene.folder / "cv2.py").write_text("import a_module_that_nobody_has\n", encoding="ascii")
    train(scene)


def no_memory(scene: Scene) -> None:
    """The trainer may not take any more memory."""
    train(scene)
    pid = in_second_epoch(scene)
    size = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    scene.struck_at = time.time()
    resource.prlimit(pid, resource.RLIMIT_AS, (size // 2, size // 2))


def no_files(scene: Scene) -> None:
    """The trainer may not open any more files."""
    train(scene, workers=2)
    pid = in_second_epoch(scene)
    scene.struck_at = time.time()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, 5))


def suspended(scene: Scene) -> None:
    """A person suspends the trainer."""
    train(scene, {"restart": {"hang_after": HANG_AFTER}})
    scene.signal(signal.SIGSTOP, in_second_epoch(scene))


def with_workers(scene: Scene) -> None:
    """Workers hand over their images in shared memory, of which there is none."""
    train(scene, {"restart": {"hang_after": HANG_AFTER}}, workers=1, batch=16, imgsz=128, epochs=2)


def ranks(scene: Scene, port: int) -> None:
    """Two processes that train together, by torchrun."""
    script = scene.folder / "train_ranks.py"
    script.write_text(RANKS, encoding="ascii")
    words = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), str(script)]
    settings = {"name": scene.name, "command": [str(PYTHON), *words, str(scene.folder / "once")]}
    scene.server.drop(f"{scene.name}.toml", job({**settings, "env": {"OMP_NUM_THREADS": "1"}}))


def free_port() -> int:
    """A port on which nobody listens just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def rank_killed(scene: Scene) -> None:
    """One rank of two is killed."""
    ranks(scene, free_port())
    known = scene.folder / "once1"
    pid = until(lambda: known.exists() and known.read_text(encoding="ascii"), "the ranks have met", 60)
    scene.signal(signal.SIGKILL, int(pid))


def port_taken(scene: Scene) -> None:
    """Another program listens on the port of the ranks."""
    listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    scene.undo.callback(listener.close)
    (scene.folder / "once").touch()
    ranks(scene, listener.getsockname()[1])


def port_freed(scene: Scene) -> None:
    """It ends."""
    scene.undo.pop_all().close()


def brought_back(scene: Scene) -> None:
    """Given up, for its file system is there. The folder gets its old name, and `retry` goes on where it was."""
    (scene.folder / "boxes" / "pictures").rename(scene.folder / "boxes" / "images")
    scene.server.order("retry", scene.name)
    scene.server.wait(scene.name, "SUCCEEDED", within_s=120)
    resumed(scene)


#: Those that are slow need a minute each on a small machine.
ULTRALYTICS_FAULTS = tuple(
    dataclasses.replace(fault, ground="ultralytics" if fault.ground == "plain" else fault.ground)
    for fault in (
        Fault("deadlock", deadlock, (("hang-loader", "retry"),), mend=bring_back, check=named(IMAGE)),
        Fault(
            "killed-worker", killed_worker, (("worker-killed|peer-gone", "retry"),), check=resumed
        ),  # which end of the pipe is read first
        Fault("huge-steps", huge_steps, (("nan", "hold"),), "HELD"),
        Fault("image-vanished", vanished, (("image-missing", "retry"),), check=resumed, slow=True),
        Fault("image-damaged", cut, (("image-missing", "retry"),), check=resumed, slow=True),
        Fault("data-moved", moved, (("dataset-missing", "fail"),), "FAILED", check=brought_back, slow=True),
        Fault("wrong-names", wrong_names, (("wrong-class-count", "fail"),), "FAILED", slow=True),
        Fault("wrong-labels", wrong_labels, (("wrong-class-count", "fail"),), "FAILED", slow=True),
        Fault("all-frozen", frozen, (("bad-argument", "fail"),), "FAILED", slow=True),
        Fault("package-gone", missing_package, (("package-missing", "hold"),), "HELD", slow=True),
        Fault("no-memory", no_memory, (("host-oom", "wait-memory"),), check=resumed, slow=True),
        Fault("no-files", no_files, (("too-many-open-files", "workers"),), check=resumed, slow=True),
        Fault("suspended", suspended, (), told="stopped", mend=goes_on, check=same_attempt, slow=True),
        Fault("one-rank-killed", rank_killed, (("killed", "backoff"),), slow=True),
        Fault("port-taken", port_taken, (("port-in-use", "retry"),), mend=port_freed, slow=True),
        Fault("no-shared-memory", with_workers, (("hang-shm", "workers"),), ground="little shm", slow=True),
    )
)
