"""`checkpoints verify`: what any files are, without a daemon; and how the verb tells its words from names of runs."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pty
import stat
import subprocess
import sys
import types

import pytest
from click.testing import CliRunner

from supervisor.cli.program import PROGRAM, program
from tests.cli.conftest import process
from tests.runner import torch_file


@pytest.fixture
def files(tmp_path):
    """A folder with one file of each kind."""
    folder = tmp_path / "weights 权重"
    folder.mkdir()
    good = torch_file.write(folder / "last.pt", torch_file.training(epoch=3, epochs=5, version="8.4.190"))
    flipped = bytearray(good.read_bytes())
    flipped[flipped.index(torch_file.halves(1.0, -2.0, 0.5))] ^= 1
    (folder / "flipped.pt").write_bytes(flipped)
    (folder / "torn.pt").write_bytes(good.read_bytes()[:700])
    stripped = {"epoch": -1, "model": torch_file.tensor("Half", b"1234"), "ema": None, "optimizer": None}
    torch_file.write(folder / "stripped.pt", {**stripped, "train_args": {"epochs": 5}})
    nan = torch_file.tensor("Half", torch_file.halves(float("nan")))
    torch_file.write(folder / "poisoned.pt", torch_file.training(weights=nan))
    hostile = {"epoch": 1, "ema": torch_file.Named("os", "system"), "optimizer": {}}
    torch_file.write(folder / "hostile.pt", hostile)
    return folder


def verify(*words):
    """Call `checkpoints verify` in this process."""
    return CliRunner().invoke(program, ["checkpoints", "verify", *map(str, words)], prog_name=PROGRAM)


def states(done):
    """File name → state, from the JSON."""
    return {one["path"].rpartition("/")[2]: one["state"] for one in json.loads(done.stdout)["files"]}


def test_each_kind_of_file_has_its_name(files):
    """A folder means its files; one that is not sound makes the exit code 1."""
    done = verify(files, "--json")
    assert states(done) == {
        "flipped.pt": "torn",
        "hostile.pt": "hostile",
        "last.pt": "resumable",
        "poisoned.pt": "poisoned",
        "stripped.pt": "finished",
        "torn.pt": "torn",
    }
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (1, False)


def test_sound_files_end_in_zero(files):
    """Resumable and stripped are both sound."""
    done = verify(files / "last.pt", files / "stripped.pt", "--json")
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0, True)


def test_epochs_count_from_one_and_the_stored_number_is_told_too(files):
    """The fourth epoch is complete: stored as 3. A stripped file does not say."""
    last, stripped = json.loads(verify(files / "last.pt", files / "stripped.pt", "--json").stdout)["files"]
    assert (last["epoch"], last["stored_epoch"], last["epochs"], last["version"]) == (4, 3, 5, "8.4.190")
    assert (stripped["epoch"], stripped["stored_epoch"]) == (None, -1)
    assert (last["ok"], last["finite"], last["deep"]) == (True, True, None)


def test_quick_does_not_search_for_nan(files):
    """Then a poisoned file looks whole."""
    done = verify(files / "poisoned.pt", "--quick", "--json")
    assert (states(done), done.exit_code) == ({"poisoned.pt": "resumable"}, 0)
    assert json.loads(done.stdout)["files"][0]["finite"] is None


def test_the_table_says_state_epoch_and_the_whole_reason(files):
    """One line a file with all of what is wrong, once."""
    done = verify(files)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["FILE", "STATE", "EPOCH", "SIZE", "TRAINER"]
    assert any("last.pt" in line and "resumable" in line and "4/5" in line and "8.4.190" in line for line in lines)
    [flipped] = [line for line in lines if str(files / "flipped.pt") in line]
    assert flipped.endswith("  wrong CRC in archive/data/0")
    assert len(lines) == 1 + 6
    assert "6 files, 4 of them not sound" in done.stderr


def test_a_name_with_a_line_end_stays_on_its_line(files):
    """Control characters and broken bytes of a name are shown escaped; JSON has the name as it is."""
    for name in ("a\nb\x1b.pt", os.fsdecode(b"\xff.pt")):
        (files / "last.pt").replace(files / name)
        assert len(verify(files / name).stdout.splitlines()) == 2
        assert name.encode("unicode_escape").replace(b"\\udcff", b"\\udcff").decode() in verify(files / name).stdout
        (files / name).replace(files / "last.pt")
    (files / "torn.pt").rename(files / "x\ny.pt")
    assert json.loads(verify(files / "x\ny.pt", "--json").stdout)["files"][0]["path"] == str(files / "x\ny.pt")


def test_an_empty_folder_is_json_too(tmp_path):
    """No file, no result: still an answer that a program can read, and exit code 2."""
    done = verify(tmp_path, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (2, {"version": 1, "ok": False, "files": []})
    assert "no *.pt file" in done.stderr


def test_a_file_that_is_not_there_is_missing(tmp_path):
    """It is a row like others, and not sound."""
    done = verify(tmp_path / "none.pt", "--json")
    assert (states(done), done.exit_code) == ({"none.pt": "missing"}, 1)


def test_files_are_found_below_a_folder_once_and_sorted(files):
    """Folders in folders count, other suffixes do not, and a file named twice is looked at once."""
    (files / "old").mkdir()
    (files / "last.pt").rename(files / "old" / "last.pt")
    (files / "results.csv").touch()
    paths = [one["path"] for one in json.loads(verify(files / "old", files, "--json").stdout)["files"]]
    assert paths[0] == str(files / "old" / "last.pt")
    assert len(paths) == len(set(paths)) == 6
    assert paths[1:] == sorted(paths[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "PATH"),
        (["--depp", "x.pt"], "No such option"),
        (["{empty}"], "there is no *.pt file below"),
        (["x.pt", "--deep"], "no environment is active"),
        (["x.pt", "--deep", "--python", "/nowhere/python"], "no Python that can be started"),
    ],
)
def test_wrong_use_ends_in_two(tmp_path, monkeypatch, words, said):
    """Each with what to do about it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "empty").mkdir()
    done = verify(*(str(tmp_path / "empty") if word == "{empty}" else word for word in words))
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def interpreter(folder, answer, code):
    """A Python for --deep that answers as it is told, and notes that it was asked."""
    path = folder / "bin" / "python"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/asked'\necho '{json.dumps(answer)}'\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(("code", "word"), [(0, "ok"), (65, "refused"), (1, "unknown")])
def test_deep_asks_the_active_python_and_counts(files, tmp_path, monkeypatch, code, word):
    """What the load says decides over the exit code; a Python that cannot look proves nothing."""
    ok = code == 0
    interpreter(tmp_path, {"version": 1, "path": "x", "ok": ok, "reason": "because"}, code)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    done = verify(files / "last.pt", "--deep", "--path", tmp_path)
    assert done.exit_code == (0 if ok else 1)
    assert word in done.stdout.splitlines()[1].split()
    assert ok or "loaded: because" in done.stdout
    assert f"--path {tmp_path} -- {files / 'last.pt'}" in (tmp_path / "asked").read_text()


def test_deep_never_loads_what_is_torn_hostile_or_poisoned(files, tmp_path):
    """Such a file is not even given to the Python."""
    python = interpreter(tmp_path, {"version": 1, "path": "x", "ok": True}, 0)
    paths = [files / f"{name}.pt" for name in ("torn", "hostile", "poisoned")]
    assert verify(*paths, "--deep", "--python", python).exit_code == 1
    assert not (tmp_path / "asked").exists()


def test_a_first_word_that_is_no_verb_is_a_run(monkeypatch):
    """`checkpoints NAME…`, `checkpoints --json` and `checkpoints` all list; options may stand after the name."""
    calls = []
    module = types.ModuleType("supervisor.cli.checkpoints_list")
    module.list_checkpoints = lambda _target, names, *, as_json: calls.append((names, as_json))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for words in (["truck"], ["truck", "car", "--json"], ["--json"], []):
        assert CliRunner().invoke(program, ["checkpoints", *words], prog_name=PROGRAM).exit_code == 0
    assert calls == [(("truck",), False), (("truck", "car"), True), ((), True), ((), False)]


@pytest.mark.e2e
def test_verify_runs_as_a_program_without_a_daemon(files):
    """Nothing of a daemon is needed, and nothing is run that the file says."""
    sung = files / "sung"

    class Canary:
        def __reduce__(self):
            return (os.mkdir, (str(sung),))

    data = torch_file.archive({"archive/data.pkl": pickle.dumps({"epoch": 1, "ema": Canary()}, 2)})
    (files / "canary.pt").write_bytes(data)
    done = process("checkpoints", "verify", files / "canary.pt", "--json")
    assert (done.returncode, json.loads(done.stdout)["files"][0]["state"]) == (1, "hostile")
    assert not sung.exists()


@pytest.mark.e2e
def test_on_a_terminal_names_are_short_and_progress_goes_away(files):
    """The end of a long path is what one looks for; colours tell good from bad; the count of files is wiped out."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "supervisor", "checkpoints", "verify", files]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110"}
    with subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=environment) as running:
        os.close(side)
        shown = everything(main)
    assert running.returncode == 1
    text = shown.rpartition("\r\x1b[K")[2]  # what stays after the line of progress was wiped out
    assert "1/6" in shown
    assert "1/6" not in text
    assert "…" in text
    assert "/stripped.pt" in text
    assert "\x1b[31mtorn" in text


def everything(terminal):
    """All that is written to a terminal until the last writer has closed it, which Linux tells as an error."""
    shown = []
    with os.fdopen(terminal, "rb", buffering=0) as reader, contextlib.suppress(OSError):
        while True:
            shown.append(reader.read(65536))
    return b"".join(shown).decode()
