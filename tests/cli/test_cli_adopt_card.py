"""`adopt CARD`: what it says of published weights, what it refuses and why, and what it submits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from supervisor import toml_errors
from supervisor.core import cards
from tests.torch_files import checkpoint
from tests.web.conftest import daemon  # noqa: F401 - a fixture


class Share:
    """A shared folder with a publication: 3 of 8 epochs are done."""

    def __init__(self, root: Path) -> None:
        self.root = root / "share"
        self.root.mkdir()
        self.data = root / "data.yaml"
        self.data.touch()
        self.path = self.root / "truck.json"
        self.last = self.root / "truck-last.pt"
        self.last.write_bytes(checkpoint(2, epochs=8))
        self.write()

    def write(self, **more: object) -> None:
        """Write the card, with the file as it is now."""
        content = self.last.read_bytes()
        file = cards.CardFile(
            name=self.last.name, role="last", bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), epoch=3
        )
        facts = {"run": "truck@1", "project": "detect", "name": "truck", "server": "gpu one", "epochs": 8, "epoch": 3}
        train = {"model": "/models of gpu one/x.yaml", "data": str(self.data), "epochs": 8, "imgsz": 64}
        lists = {"files": (file,), "lineage": ("truck@1: from the beginning",), "metrics": {"metrics/mAP50-95(B)": 0.5}}
        data = cards.CardData(path=str(more.get("config", train)["data"]))  # type: ignore[index]
        card = cards.Card(**{**facts, **lists, "data": data, "config": train, **more})  # type: ignore[arg-type]
        self.path.write_bytes(cards.encode(card))


@pytest.fixture
def share(tmp_path, monkeypatch):
    """The publication; the person stands in a folder of their own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Share(tmp_path)


def adopt(cli, share, *words):
    """Call the verb with an interpreter that is asked nothing."""
    return cli("adopt", share.path, *words, "--conda", "yolo")


def test_dry_run_prints_the_job_file_and_the_plan(cli, daemon, share):  # noqa: F811 - the fixture
    """Epochs, metric, origin and data are told; the job file fits this server; nothing is made."""
    result = adopt(cli, share, "--dry-run")
    assert result.exit_code == 0, result.stderr
    into = Path.cwd() / "truck"
    found = toml_errors.read(result.stdout.encode(), "shown")[0]
    assert (found["name"], found["project"], found["adopt"]) == ("truck", "detect", str(into))
    assert found["train"]["epochs"] == 8
    assert found["train"]["model"] == str(into / "weights" / "last.pt")
    for words in ("truck@1 of gpu one", "from the beginning", "mAP50-95(B) 0.5", "after epoch 3 of 8", str(share.data)):
        assert words in result.stderr
    assert not into.exists()
    assert list(daemon.jobs_folder.iterdir()) == []


def test_yes_copies_the_checkpoint_and_submits(cli, spool, daemon, share):  # noqa: F811 - the fixture
    """The folder holds a copy with the same bytes and the arguments; the daemon takes the job."""
    result = adopt(cli, share, "--yes", "--epochs", "20")
    assert result.exit_code == 0, result.stderr
    into = Path.cwd() / "truck"
    assert (into / "weights" / "last.pt").read_bytes() == share.last.read_bytes()
    assert sorted(path.name for path in (into / "weights").iterdir()) == ["last.pt"]
    assert "epochs: 20" in (into / "args.yaml").read_text()
    assert daemon.world.named("truck").job.adopt == str(into)
    assert daemon.world.named("truck").job.train["epochs"] == 20


def test_another_file_than_the_card_names_is_refused(cli, daemon, share):  # noqa: F811 - the fixture
    """One flipped byte, a shorter file and a missing one are each said, and nothing is made."""
    content = share.last.read_bytes()
    for bad in (content[:-1] + b"?", content[:-1]):
        share.last.write_bytes(bad)
        result = adopt(cli, share, "--yes")
        assert result.exit_code == 4
        assert "is not the file that the card names" in result.stderr
    share.last.unlink()
    result = adopt(cli, share, "--yes")
    assert "copy both" in result.stderr
    assert not (Path.cwd() / "truck").exists()


def test_a_data_set_elsewhere_must_be_named(cli, daemon, share, tmp_path):  # noqa: F811 - the fixture
    """A path of the other server is no path here: it is said how it was called, and --data says where it is."""
    share.write(config={"model": "yolo11n.pt", "data": "/data of gpu one/x.yaml", "epochs": 8})
    result = adopt(cli, share, "--dry-run")
    assert result.exit_code == 4
    assert "/data of gpu one/x.yaml (so it was called on gpu one)" in result.stderr
    result = adopt(cli, share, "--dry-run", "--data", share.data)
    assert toml_errors.read(result.stdout.encode(), "shown")[0]["train"]["data"] == str(share.data)
    assert "is not there" in adopt(cli, share, "--dry-run", "--data", tmp_path / "none.yaml").stderr


def test_a_finished_training_needs_more_epochs(cli, daemon, share):  # noqa: F811 - the fixture
    """With all epochs done there is nothing to resume: --epochs says how many there shall be; fewer are refused."""
    share.last.write_bytes(checkpoint(7, epochs=8))
    share.write()
    result = adopt(cli, share, "--dry-run")
    assert result.exit_code == 4
    assert "all 8 epochs are trained" in result.stderr
    assert "after epoch 8 of 12" in adopt(cli, share, "--dry-run", "--epochs", "12").stderr
    assert "can only be more" in adopt(cli, share, "--dry-run", "--epochs", "5").stderr


def test_a_card_of_weights_alone_says_what_they_are_good_for(cli, daemon, share):  # noqa: F811 - the fixture
    """Without a last checkpoint nothing goes on: a new training begins with the best."""
    card = cards.decode(share.path.read_bytes())
    best = cards.CardFile(name="truck-best.pt", role="best", bytes=1, sha256="0" * 64)
    share.write(files=(best,))
    assert card.file("last") is not None
    result = adopt(cli, share, "--dry-run")
    assert result.exit_code == 4
    assert f"model = {share.root / 'truck-best.pt'}" in result.stderr


@pytest.mark.parametrize("text", ["{}", "no json", json.dumps({"run": "a", "project": "b", "name": "c"})])
def test_other_files_are_refused(cli, daemon, share, text):  # noqa: F811 - the fixture
    """What is no card, or a card of a command, is said to be so."""
    share.path.write_text(text)
    assert adopt(cli, share, "--dry-run").exit_code in {2, 4}


def test_a_card_that_leads_out_of_its_folder_is_refused(cli, daemon, share):  # noqa: F811 - the fixture
    """A file name with a path in it is not followed."""
    text = share.path.read_text().replace('"truck-last.pt"', '"../truck-last.pt"')
    share.path.write_text(text)
    result = adopt(cli, share, "--dry-run")
    assert (result.exit_code, "outside its own folder" in result.stderr) == (2, True)


def test_the_new_folder_must_be_new(cli, daemon, share):  # noqa: F811 - the fixture
    """A folder with files, and one below runs_dir, are refused; another one is given with --into."""
    (Path.cwd() / "truck").mkdir()
    (Path.cwd() / "truck" / "mine").touch()
    assert "is there already" in adopt(cli, share, "--dry-run").stderr
    assert adopt(cli, share, "--dry-run", "--into", "other").exit_code == 0
    runs_dir = daemon.runs_dir if hasattr(daemon, "runs_dir") else None
    if runs_dir is not None:
        assert "only the daemon writes" in adopt(cli, share, "--dry-run", "--into", runs_dir / "x").stderr


def test_options_of_a_card_belong_to_a_card(cli, daemon, tmp_path):  # noqa: F811 - the fixture
    """--data, --epochs and --into say nothing about a folder."""
    for words in (["--data", "x"], ["--epochs", "3"], ["--into", "y"]):
        assert cli("adopt", tmp_path, *words, "--dry-run").exit_code == 2


def test_publish_says_where_it_goes(cli, daemon):  # noqa: F811 - the fixture
    """The order is taken and told; without a place in the job file it says what to add; before an epoch there is none."""
    from supervisor.core.job import PublishTo

    run = daemon.launch("truck", publish=PublishTo(to="/share"))
    assert "has not saved an epoch yet" in cli("publish", "truck").stderr
    daemon.progress(run, 3, 2)
    result = cli("publish", "truck")
    assert (result.exit_code, "is being published to /share" in result.stdout) == (0, True)
    assert json.loads(cli("publish", "truck", "--json").stdout)["done"] is True
    daemon.launch("car")
    result = cli("publish", "car")
    assert (result.exit_code, "add publish = {" in result.stderr) == (4, True)
