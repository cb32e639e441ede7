"""The demo: a real YOLO training is killed, its supervisor too; it resumes, finishes, and proves that from files.

    python tests/demo.py --python /env/bin/python [--out demo-out] [--epochs 10]
    python tests/demo.py [--out demo-out] --again backup drill --json

The second form starts the daemon of a finished demo again, has `yolo-supervisor` say these words to it, and ends it.

Exits 1 if any promise did not hold. What it proves it reads from the trainer's own files (last.pt, results.csv, its
log, the shim's records), not from the supervisor's journal.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from demo_backup import CONFIG, prove_backup, prove_drill, prove_journal, prove_plan
from demo_room import (
    COLOURS,
    HERE,
    NAME,
    ROOT,
    Demo,
    PromiseError,
    close,
    command,
    expect,
    headline,
    say,
    start_daemon,
    wait_for,
)

MARKER = ".yolo-supervisor-demo"
OUT = ROOT / "demo-out"


# ---- set-up
def prepare_folder(out: Path) -> None:
    """An empty folder; what an older demo left is removed, but nothing else ever is."""
    if out.exists():
        if any(out.iterdir()) and not (out / MARKER).exists():
            raise SystemExit(f"{out} is not empty and not of a demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def make_data(demo: Demo) -> None:
    """Generated pictures with red and blue boxes: small, but a model really learns on them."""
    command = [demo.python, str(HERE / "training_data.py"), str(demo.out / "data"), "--train", "800", "--val", "64"]
    subprocess.run([*command, "--size", "96"], check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile(HERE / "models" / "tiny.yaml", demo.out / "tiny.yaml")


def start_receiver(demo: Demo) -> str:
    """A webhook receiver on this machine. Returns its address."""
    command = [sys.executable, str(HERE / "webhook_receiver.py"), "--port", "0", "--file", str(demo.messages)]
    demo.receiver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert demo.receiver.stdout is not None
    port = demo.receiver.stdout.readline().split()[-1]
    return f"http://127.0.0.1:{port}/hook"


def write_config(demo: Demo, hook: str) -> None:
    """A daemon of its own: nothing of a supervisor that you may have is touched."""
    (demo.out / "backup").mkdir()  # a target is never made by the daemon: it could be a disk that is not mounted
    demo.config.write_text(
        f"""
[server]
name = "demo"
state_dir = "{demo.out}/state"
socket = "{demo.out}/s"

[jobs]
folder = "{demo.out}/jobs"
allow_root = true       # a demo may be tried as root

[disk]
pause_below = "200MiB"

[[channel]]
name = "hook"
kind = "webhook"
url = "{hook}"
{CONFIG.format(out=demo.out)}""",
        encoding="utf-8",
    )


def write_job(demo: Demo) -> Path:
    """The job file that a user would write."""
    path = demo.out / f"{NAME}.toml"
    path.write_text(
        f"""# A small detector on generated data.
project = "demo"
python = "{demo.python}"
gpus = 0

[train]
model = "{demo.out}/tiny.yaml"
data = "{demo.out}/data/data.yaml"
epochs = {demo.epochs}
imgsz = 96
batch = 16
plots = false
amp = false
""",
        encoding="utf-8",
    )
    return path


# ---- what the trainer's own files say
def beats(demo: Demo, attempt: int) -> list[dict[str, Any]]:
    """The heartbeats of an attempt."""
    try:
        lines = (demo.attempt(attempt) / "beats.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def look_at(demo: Demo, path: Path) -> dict[str, Any]:
    """State and epoch of a checkpoint, read without loading it."""
    checker = [sys.executable, "-I", str(ROOT / "supervisor" / "runner" / "checkpoint.py"), str(path)]
    return json.loads(subprocess.run(checker, capture_output=True, text=True, check=True).stdout)


def started(demo: Demo, attempt: int) -> dict[str, Any]:
    """The shim's record of a start."""
    return json.loads((demo.attempt(attempt) / "started.json").read_text())


def start_time(pid: int) -> str:
    """When a process started, from the kernel: the same number for another process tells itself apart by this."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return ""


def show_progress(demo: Demo, attempt: int, until: Any) -> Any:
    """Show where the training is, live, until `until(beats)` gives something true."""
    shown = ""

    def look() -> Any:
        nonlocal shown
        seen = beats(demo, attempt)
        batch = next((beat for beat in reversed(seen) if beat["kind"] == "batch"), None)
        if batch is not None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in batch["losses"].items() if value is not None)
            text = (
                f"   epoch {batch['epoch'] + 1}/{batch['epochs']} batch {batch['batch']}/{batch['batches']}  {losses}"
            )
            if text != shown and (COLOURS or text.partition(" batch ")[0] != shown.partition(" batch ")[0]):
                shown = text
                print(f"\r\x1b[K{text}" if COLOURS else text, end="" if COLOURS else "\n", flush=True)
        if any(beat["kind"] == "end" for beat in seen) and not until(seen):
            raise PromiseError("the training ended before it could be killed; run the demo again with more --epochs")
        return until(seen)

    found = wait_for(demo, "the training to get there", look)
    if COLOURS:
        print()
    return found


# ---- the acts
def kill_training(demo: Demo) -> None:
    """SIGKILL at a random batch of a random epoch from the second on."""
    chance = random.Random(demo.seed)
    epoch, share = chance.randint(2, max(2, demo.epochs // 2 - 1)), chance.uniform(0.15, 0.8)
    say(f"   will be killed in epoch {epoch} after {share:.0%} of its batches (seed {demo.seed})")

    def there(seen: list[dict[str, Any]]) -> Any:
        return next(
            (
                beat
                for beat in seen
                if beat["kind"] == "batch" and beat["epoch"] + 1 >= epoch and beat["batch"] >= share * beat["batches"]
            ),
            None,
        )

    beat = show_progress(demo, 1, there)
    pid = started(demo, 1)["pid"]
    before = look_at(demo, demo.run_dir / "train" / "weights" / "last.pt")
    os.kill(pid, signal.SIGKILL)
    demo.facts["killed_in_epoch"] = beat["epoch"] + 1
    demo.facts["killed_at_batch"] = f"{beat['batch']}/{beat['batches']}"
    demo.facts["saved_before"] = before["epoch"] + 1
    demo.facts["killed_at"] = time.monotonic()
    say(
        f"   SIGKILL to the training (pid {pid}) in epoch {beat['epoch'] + 1}, batch {beat['batch']}; last.pt holds {before['epoch'] + 1} complete epochs",
        "1;31",
    )


def see_resume(demo: Demo) -> None:
    """The next attempt goes on at the epoch after the one in last.pt."""
    resumed = wait_for(
        demo,
        "the training to be resumed",
        lambda: next((beat for beat in beats(demo, 2) if beat["kind"] in {"resumed", "fresh"}), None),
    )
    seconds = time.monotonic() - demo.facts["killed_at"]
    if resumed["kind"] != "resumed" or resumed["from_epoch"] + 1 != demo.facts["saved_before"]:
        raise PromiseError(f"expected a resume after epoch {demo.facts['saved_before']}, got {resumed}")
    demo.facts["resume_s"] = seconds
    say(f"   resumed after epoch {resumed['from_epoch'] + 1}, {seconds:.1f} s after the kill", "1;32")


def kill_daemon(demo: Demo) -> None:
    """SIGKILL to the daemon while the training runs; the next one must adopt it."""
    target = demo.facts["killed_in_epoch"] + 1
    show_progress(
        demo,
        2,
        lambda seen: next(
            (beat for beat in seen if beat["kind"] == "batch" and beat["epoch"] + 1 >= target and beat["batch"] > 3),
            None,
        ),
    )
    assert demo.daemon is not None
    shim, daemon = started(demo, 2)["shim_pid"], demo.daemon.pid
    born = start_time(shim)
    before = look_at(demo, demo.run_dir / "train" / "weights" / "last.pt")["epoch"] + 1
    os.kill(daemon, signal.SIGKILL)
    demo.daemon.wait()
    say(f"   SIGKILL to the daemon (pid {daemon}); the training goes on without it", "1;31")
    count = len(beats(demo, 2))
    wait_for(demo, "heartbeats while no daemon is there", lambda: len(beats(demo, 2)) > count)
    new = start_daemon(demo)
    after = started(demo, 2)["shim_pid"]
    row = json.loads(command(demo, "show", NAME, "--json").stdout)
    if new == daemon or after != shim or start_time(shim) != born:
        raise PromiseError(f"daemon {daemon} → {new}, shim {shim} → {after}")
    demo.facts.update(daemon_before=daemon, daemon_after=new, shim=shim, saved_at_daemon_kill=before)
    say(
        f"   a new daemon (pid {new}) has adopted the training: same shim (pid {shim}), attempt {row['attempt']}",
        "1;32",
    )


def see_the_end(demo: Demo) -> None:
    """Wait until the run is over, as a script of a user would."""
    show_progress(demo, 2, lambda seen: any(beat["kind"] == "end" for beat in seen))
    done = command(demo, "wait", NAME, "--timeout", "60s", check=False)
    if done.returncode != 0:
        raise PromiseError(f"`wait` says exit code {done.returncode}: {done.stdout}{done.stderr}")


# ---- proof
def prove(demo: Demo) -> None:
    """Everything that was promised, read from the trainer's own files."""
    attempts = json.loads(command(demo, "show", NAME, "--json").stdout)["attempts"]
    compared = next(
        (attempt for attempt in attempts if "continuous" in attempt), {"findings": ["nothing was compared"]}
    )
    expect(
        "the training went on where it had ended",
        compared.get("continuous", False),
        "; ".join(compared["findings"]) or "learning rate, losses, mAP and EMA count fit those before",
    )
    rows = [int(float(row[0])) for row in list(csv.reader((demo.run_dir / "train" / "results.csv").open()))[1:]]
    expect("each epoch stands once in results.csv", rows == list(range(1, demo.epochs + 1)), f"epochs {rows}")
    last = look_at(demo, demo.run_dir / "train" / "weights" / "last.pt")
    expect("last.pt is finished", last["state"] == "finished", f"last.pt is {last['state']}")
    log = (demo.attempt(2) / "log").read_text(errors="replace")
    own_word = f"from epoch {demo.facts['saved_before'] + 1} to {demo.epochs} total epochs"
    expect("the trainer's own log says where it resumed", own_word in log, f"“Resuming training … {own_word}”")
    expect(
        "nothing was launched twice",
        not demo.attempt(3).exists(),
        "two attempts: the killed one, and the one that finished",
    )
    expect(
        "the daemon was another one, the shim the same",
        demo.facts["daemon_before"] != demo.facts["daemon_after"],
        f"daemon {demo.facts['daemon_before']} → {demo.facts['daemon_after']}, shim {demo.facts['shim']}",
    )
    received = wait_for(
        demo,
        "the message that it finished",
        lambda: [m for m in messages(demo) if m["data"]["what"] == "succeeded"],
        30,
    )
    expect("the end was told once", len({m["id"] for m in received}) == 1, received[0]["data"]["title"])
    for words in (("ls", "--all", "--json"), ("why", NAME, "--json")):
        answer = json.loads(command(demo, *words).stdout)
        expect(
            f"`yolo-supervisor {' '.join(words)}` is JSON with a version",
            "version" in answer,
            f"version {answer.get('version')}",
        )


def prove_times(demo: Demo) -> None:
    """Each moment of the run is of one class: they add up to the wall clock, and work was lost by the kill."""
    run = json.loads(command(demo, "show", NAME, "--json").stdout)
    report = json.loads(command(demo, "report", NAME, "--json").stdout)
    seconds, total_s = report["seconds"], report["total_s"]
    wall_clock = (run["created_at"], run["phase_since_at"])
    told = all(abs(one - report[key]) < 0.001 for one, key in zip(wall_clock, ("began_at", "ended_at"), strict=True))
    exact = sum(seconds.values()) == total_s == report["ended_at"] - report["began_at"]
    expect(
        "its seconds by class add up to the wall clock", told and exact, f"{total_s:.1f} s in {len(seconds)} classes"
    )
    expect("what the kill cost is told", seconds["lost"] > 0 < seconds["detection"], f"{seconds['lost']:.1f} s lost")
    demo.facts["goodput"] = f"{report['goodput']:.0%} of {total_s:.0f} s; " + ", ".join(
        f"{name} {value:.1f} s" for name, value in seconds.items() if value >= 0.05
    )


def messages(demo: Demo) -> list[dict[str, Any]]:
    """What the webhook receiver got."""
    if not demo.messages.exists():
        return []
    records = [json.loads(line) for line in demo.messages.read_text().splitlines()]
    return [{"id": record["headers"].get("webhook-id", ""), **record["body"]} for record in records]


def draw(demo: Demo) -> None:
    """The curve over both attempts with the restart marked, drawn as a user would."""
    files = [str(demo.out / f"curve.{kind}") for kind in ("png", "svg")]
    say("   " + command(demo, "plot", NAME, "--out", files[0], "--out", files[1]).stdout.strip())


def summary(demo: Demo) -> None:
    """What was seen, on one screen."""
    facts = demo.facts
    out = "" if demo.out == OUT else f" --out {demo.out}"
    headline("Summary")
    say(
        f"   kill of the training   epoch {facts['saved_before']} was saved before, killed in epoch {facts['killed_in_epoch']} at batch {facts['killed_at_batch']}, resumed after epoch {facts['saved_before']} in {facts['resume_s']:.1f} s"
    )
    say(
        f"   kill of the daemon     epoch {facts['saved_at_daemon_kill']} was saved before; pid {facts['daemon_before']} → {facts['daemon_after']}, the training never stopped (shim {facts['shim']})"
    )
    for message in messages(demo):
        say(f"   webhook                {message['data']['title']}")
    say(f"   goodput                {facts['goodput']}")
    say(f"   picture                {demo.out / 'curve.png'}")
    for words in (f"why {NAME}", f"report {NAME}"):
        say(f"   try                    .venv/bin/yolo-supervisor --config {demo.config} {words}")
    say(f"   backup                 {facts['drill']}; it lies in {demo.out / 'backup'}")
    say(f"   try it once more       .venv/bin/python tests/demo.py{out} --again backup drill --json")
    say("                          (that starts the demo's daemon again, gives it the words, and ends it)")
    say(f"   took                   {time.monotonic() - demo.started_at:.0f} s")


def end_trainings(demo: Demo) -> None:
    """After a failure no training of the demo may be left."""
    command(demo, "cancel", NAME, "--now", check=False)


def play(demo: Demo) -> None:
    """All acts."""
    headline("Set-up: data, a webhook receiver, a daemon")
    prepare_folder(demo.out)
    make_data(demo)
    write_config(demo, start_receiver(demo))
    say(f"   daemon pid {start_daemon(demo)}, everything lies in {demo.out}")
    headline("A user submits a training")
    say("   " + command(demo, "submit", str(write_job(demo))).stdout.strip().replace("\n", "\n   "))
    headline("The training is killed in the middle of an epoch")
    kill_training(demo)
    see_resume(demo)
    headline("The daemon is killed")
    kill_daemon(demo)
    headline("The training goes on to its end")
    see_the_end(demo)
    headline("Proof, from the trainer's own files")
    prove(demo)
    prove_times(demo)
    draw(demo)
    headline("The backup, and a restore from it")
    prove_backup(demo)
    prove_journal(demo)
    prove_drill(demo)
    prove_plan(demo)
    summary(demo)


def again(demo: Demo, words: list[str]) -> int:
    """Start the daemon of a finished demo, and let the command line talk to it as a user would."""
    if not (demo.out / MARKER).exists():
        say(f"{demo.out} is not of a demo: run `make demo` first")
        return 1
    try:
        start_daemon(demo)
        line = [sys.executable, "-m", "supervisor", "--config", str(demo.config), *words]
        return subprocess.run(line, check=False, cwd=ROOT).returncode
    finally:
        close(demo)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default="", help="an interpreter with ultralytics: the trainings' environment")
    parser.add_argument("--out", type=Path, default=OUT, help="where everything goes (default: demo-out)")
    parser.add_argument("--epochs", type=int, default=8, help="length of the training (default: 8)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10_000), help="chooses the batch of the kill"
    )
    parser.add_argument(
        "--again", nargs=argparse.REMAINDER, metavar="WORD", help="no new demo: words for the daemon of the last one"
    )
    given = parser.parse_args()
    if not given.python and not given.again:
        parser.error("--python is needed")
    return given


def main() -> int:
    """Run the demo."""
    given = _options()
    demo = Demo(str(Path(given.python).absolute()), given.out.resolve(), given.epochs, given.seed)
    if given.again:
        return again(demo, given.again)
    try:
        play(demo)
    except (PromiseError, subprocess.CalledProcessError) as error:
        end_trainings(demo)
        say(f"\nThe demo failed: {error}", "1;31")
        if isinstance(error, subprocess.CalledProcessError):
            say(f"{error.stdout or ''}{error.stderr or ''}")
        say(f"The daemon's log: {demo.out / 'daemon.log'}; the training's: {demo.run_dir / 'attempts'}")
        return 1
    except BaseException:
        end_trainings(demo)
        raise
    finally:
        close(demo)
    say("\nEvery promise held.", "1;32")
    return 0


if __name__ == "__main__":
    sys.exit(main())
