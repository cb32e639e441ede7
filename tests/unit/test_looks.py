"""Looking at checkpoints through a child: what its end says about the file, and what it does not."""

from __future__ import annotations

import os

import pytest

from supervisor import layout
from supervisor.effects import checkpoints
from supervisor.errors import RetryableError
from supervisor.runner.checkpoint import OUT_OF_MEMORY
from tests.torch_files import checkpoint

ENDS = {"memory": f"raise SystemExit({OUT_OF_MEMORY})", "time": "import os; os.kill(os.getpid(), 24)"}


@pytest.fixture
def last(tmp_path):
    """A whole checkpoint."""
    path = tmp_path / "last.pt"
    path.write_bytes(checkpoint(3))
    return path


def child(monkeypatch, tmp_path, words):
    """Let the child that looks be this program."""
    script = tmp_path / "child.py"
    script.write_text(words)
    monkeypatch.setattr(layout, "CHECKPOINT", script)


@pytest.mark.parametrize("limit", ENDS)
def test_a_look_beyond_its_limits_says_nothing_at_first(monkeypatch, tmp_path, last, limit):
    """A busy machine must not cost a checkpoint: the look is repeated, and the file is as good as it was."""
    child(monkeypatch, tmp_path, ENDS[limit])
    for _ in range(checkpoints.TIMES_UNTIL_TORN - 1):
        with pytest.raises(RetryableError, match=f"limit of {limit}"):
            checkpoints.look([last])
    monkeypatch.undo()
    assert checkpoints.look([last])[0].state == "resumable"


@pytest.mark.parametrize("limit", ENDS)
def test_the_same_content_beyond_the_limits_again_and_again_is_torn(monkeypatch, tmp_path, last, limit):
    """A pickle that eats what it gets must not keep a run waiting for ever; what is written anew is looked at anew."""
    child(monkeypatch, tmp_path, ENDS[limit])
    found = [checkpoints.survey([last])[0].state for _ in range(checkpoints.TIMES_UNTIL_TORN)]
    assert found == ["unknown"] * (checkpoints.TIMES_UNTIL_TORN - 1) + ["torn"]
    os.utime(last, ns=(1, 1))
    assert checkpoints.survey([last])[0].state == "unknown"


def test_one_file_beyond_the_limits_does_not_hide_the_others(monkeypatch, tmp_path, last):
    """Each gets a child of its own; the troubled one is counted once a look."""
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"x")
    real = layout.CHECKPOINT
    child(
        monkeypatch,
        tmp_path,
        f"import runpy, sys\nif any(word.endswith('bad.pt') for word in sys.argv): {ENDS['memory']}\n"
        f"sys.argv[0] = {str(real)!r}\nrunpy.run_path({str(real)!r}, run_name='__main__')\n",
    )
    assert [one.state for one in checkpoints.survey([bad, last])] == ["unknown", "resumable"]
    assert [one.state for one in checkpoints.survey([bad, last])] == ["unknown", "resumable"]
