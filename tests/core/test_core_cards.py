"""Cards and the names of published files: nothing leads out of a folder, nothing secret goes along."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import cards
from supervisor.core.cards import Card, CardData, CardError, CardFile
from supervisor.core.consistency import Data, Split
from supervisor.core.job import PublishTo

FILE = CardFile(name="truck-last.pt", role="last", bytes=3, sha256="0" * 64, epoch=3)


def card(**more):
    """A card of a finished run."""
    facts = {"run": "truck@1", "project": "detect", "name": "truck", "epoch": 100, "files": (FILE,)}
    train = {"model": "/models/yolo11s.pt", "data": "/data/trucks/data.yaml"}
    return Card(**{**facts, "config": train, "data": CardData(path="/data/trucks/data.yaml"), **more})


def test_the_default_name_tells_what_it_is():
    """Project, model, data set, epochs and metric, as `project_model_data_epoch_0.532.pt`."""
    name = cards.file_name(PublishTo(to="/x").name, cards.values_of(card(), 0.53199))
    assert name == "detect_yolo11s_trucks_100_0.532.pt"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("coco8.yaml", "coco8"),
        ("/data/VOC.yaml", "VOC"),
        ("/data/trucks/data.yaml", "trucks"),
        ("data.yaml", "data"),
        ("/data/imagenet/", "imagenet"),
        ("/data/v1.2/set", "set"),
        ("", ""),
    ],
)
def test_a_data_set_has_the_name_that_tells_most(data, expected):
    """The stem of the file; the folder's name where the file is called as all of them, or where it is a folder."""
    assert cards.values_of(card(config={"data": data}), None)["data"] == expected


def test_what_is_not_known_leaves_no_hole():
    """Without a metric, an epoch and a model the name has no doubled or trailing underscores."""
    empty = cards.values_of(card(config={}, epoch=0), None)
    assert cards.file_name(PublishTo(to="/x").name, empty) == "detect.pt"
    assert cards.file_name("{metric}.pt", empty) == "weights.pt"


def test_an_unknown_placeholder_is_refused_with_the_known_ones():
    """The complaint lists what may stand there."""
    problem = cards.pattern_problem("{project}_{owner}.pt")
    assert "{owner} is not known" in problem
    assert all(f"{{{name}}}" in problem for name in cards.PLACEHOLDERS)
    with pytest.raises(ValueError, match="owner"):
        cards.file_name("{owner}.pt", {})


@pytest.mark.parametrize("pattern", ["../{name}.pt", "/tmp/{name}.pt", "{name}", ".pt", "{name}.onnx", ""])
def test_a_pattern_is_a_name_and_ends_with_pt(pattern):
    """Paths, other suffixes and names of nothing are refused."""
    assert cards.pattern_problem(pattern)


@given(st.dictionaries(st.sampled_from(cards.PLACEHOLDERS), st.text(max_size=300)), st.sampled_from(["", "best"]))
def test_whatever_the_values_are_the_name_is_one_plain_part_of_a_path(values, role):
    """No slash, no leading dot or dash, no control character, never too long."""
    name = cards.file_name("{project}_{name}_{model}_{data}_{epoch}_{metric}.pt", values, role)
    assert name.endswith(".pt")
    assert "/" not in name
    assert name[0] not in ".-"
    assert name.isprintable()
    assert len(name) <= 220


def test_two_files_and_later_publications_have_names_of_their_own():
    """The role and the number stand before the suffix, the card has the plain name."""
    base = cards.numbered("truck.pt", 2)
    assert cards.with_role(base, "best") == "truck-2-best.pt"
    assert cards.numbered("truck.pt", 1) == "truck.pt"
    assert cards.card_name(base) == "truck-2.json"


def test_a_card_survives_its_file():
    """What was written is what is read."""
    assert cards.decode(cards.encode(card())) == card()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../../etc/passwd"),
        ("name", "/etc/passwd"),
        ("name", ".."),
        ("name", ""),
        ("role", "x"),
        ("sha256", "y"),
    ],
)
def test_a_card_that_leads_elsewhere_is_not_believed(field, value):
    """A name with a path in it, and values that cannot be, are refused."""
    bad = card(files=(msgspec.structs.replace(FILE, **{field: value}),))
    with pytest.raises(CardError):
        cards.decode(cards.encode(bad))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"\xff", b'{"version": 2, "run": "a", "project": "b", "name": "c"}']
)
def test_other_files_are_no_cards(text):
    """Each is refused with a sentence; a newer version says so."""
    with pytest.raises(CardError):
        cards.decode(text)


def test_the_digest_of_data_depends_on_what_it_is_and_not_on_where():
    """The same classes and lists of images have the same digest elsewhere; one image more has another."""
    split = Split(images=3, listing="abc", sources=("/a/images",))
    here = Data(name="/a/data.yaml", root="/a", names=("x",), splits={"train": split})
    there = msgspec.structs.replace(here, name="/b/data.yaml", root="/b")
    more = msgspec.structs.replace(here, splits={"train": msgspec.structs.replace(split, listing="abd")})
    assert cards.data_digest(here) == cards.data_digest(there) != cards.data_digest(more)
    assert cards.data_digest(None) == cards.data_digest(Data(name="x")) == ""


def test_secrets_of_a_job_file_do_not_go_along():
    """Values of secret-looking names are hidden wherever they stand; short ones in quotes only, so that words stay."""
    env = {"WANDB_API_KEY": "abcdef123456", "PIN_TOKEN": "a", "LANG": "C"}
    text = 'title = "a car"\n[env]\nWANDB_API_KEY = "abcdef123456" # abcdef123456\nPIN_TOKEN = "a"\nLANG = "C"\n'
    hidden = cards.without_secrets(text, (env,))
    assert "abcdef" not in hidden
    assert 'PIN_TOKEN = "(hidden)"' in hidden
    assert 'title = "a car"' in hidden
    assert 'LANG = "C"' in hidden


def test_a_secret_that_is_written_otherwise_takes_the_text_with_it():
    """An escaped value is not found: then nothing of the text is shown."""
    assert not cards.without_secrets('KEY = "\\u0061bcdefg"', ({"KEY": "abcdefg"},))
