"""The table of differences between two attempts of a run."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core.consistency import KNOWN_BAD, Data, Fingerprint, Model, Split, compare, gone, lost

SKETCH = 256


def split(names, size_bytes=1000, stamp="1"):
    """A split whose images have these names; its sketch is made as the runner makes it."""
    names = sorted(names)
    hashes = sorted({int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") for name in names})
    listing = hashlib.sha256("\n".join([*names, str(size_bytes)]).encode()).hexdigest()
    return Split(
        sources=("/d/images",), images=len(names), size_bytes=size_bytes, listing=listing, stamps=listing + stamp,
        sketch=tuple(hashes[:SKETCH]),
    )  # fmt: skip


def images(count, first=0):
    """Names of images."""
    return [f"images/{number:06d}.jpg" for number in range(first, first + count)]


OLD = Fingerprint(
    revision="r1",
    run_dir="/runs/p/truck",
    gpus=1,
    arguments={"imgsz": 640, "batch": 16},
    data=Data(
        name="/d/data.yaml", path="/d/data.yaml", sha256="a", root="/d", names=("red", "blue"),
        others={"channels": "3", "author": '"me"'},
        splits={"train": split(images(100)), "val": split(images(20, 500)), "test": split(images(10, 900))},
    ),
    model=Model(name="/m/tiny.yaml", path="/m/tiny.yaml", sha256="m", size_bytes=9),
    versions={"ultralytics": "8.4.190", "torch": "2.13.0", "python": "3.11.7"},
)  # fmt: skip


def with_data(**changes):
    """The fingerprint with other data."""
    return replace(OLD, data=replace(OLD.data, sha256="b", **changes))


def with_split(name, changed):
    """The fingerprint with another split."""
    return with_data(splits={**OLD.data.splits, name: changed})


def with_versions(**versions):
    """The fingerprint with other versions."""
    return replace(OLD, versions={**OLD.versions, **versions})


CASES = {
    "only the bytes of the data file": (with_data(), "harmless", "what it says is the same"),
    "times": (with_split("train", split(images(100), stamp="2")), "harmless", "images were touched"),
    "more images": (with_split("train", split(images(130))), "harmless", "100 images → 130; none of the old ones"),
    "few gone": (with_split("train", split(images(96))), "harmless", "100 images → 96; 4 % of the old ones"),
    "few gone, more came": (with_split("train", split(images(126, 4))), "harmless", "4 % of the old ones"),
    "a little larger": (with_split("val", split(images(20, 500), 1100)), "harmless", "1000 bytes → 1100"),
    "test is not trained": (with_split("test", split(images(1))), "harmless", "test: 10 images → 1"),
    "no test any more": (
        with_data(splits={name: one for name, one in OLD.data.splits.items() if name != "test"}),
        "harmless",
        "test is not named any more",
    ),
    "another key": (with_data(others={"channels": "3", "author": '"you"'}), "harmless", 'author of the data file was "me"'),
    "weights": (replace(OLD, model=replace(OLD.model, path="")), "harmless", "takes the model from its checkpoint"),
    "torch": (with_versions(torch="2.14.0"), "harmless", "torch was 2.13.0 and is 2.14.0"),
    "python": (with_versions(python="3.11.8"), "harmless", "Python was 3.11.7 and is 3.11.8"),
    "fewer GPUs": (replace(OLD, gpus=0), "harmless", "moves from 1 GPU to the CPU; the total batch of 16 is kept"),
    "more GPUs": (replace(OLD, gpus=3), "harmless", "moves from 1 GPU to 3 GPUs; the total batch of 16 is kept, but for 1"),
    "imgsz by an edit": (
        replace(OLD, revision="r2", arguments={"imgsz": 320, "batch": 16}), "harmless", "imgsz is 320 from now on",
    ),
    "data moved": (with_data(name="/e/data.yaml", path="/e/data.yaml", root="/e"), "repairable", "moved from /d/data.yaml"),
    "images moved": (with_data(root="/e"), "repairable", "the images moved from /d to /e"),
    "run moved": (replace(OLD, run_dir="/other/truck"), "repairable", "the run directory moved from /runs/p/truck"),
    "model's file moved": (replace(OLD, model=replace(OLD.model, name="/n/t.yaml")), "repairable", "moved from /m/tiny"),
    "a class more": (with_data(names=("red", "blue", "green")), "held", "2 classes and has 3 (new: green)"),
    "a class less": (with_data(names=("red",)), "held", "gone: blue"),
    "order": (with_data(names=("blue", "red")), "held", "the order of the classes changed: 0 was red and is blue"),
    "another name": (with_data(names=("red", "azure")), "held", "1 was blue and is azure"),
    "channels": (with_data(others={"channels": "1", "author": '"me"'}), "held", "channels of the data file was 3"),
    "many gone": (with_split("train", split(images(80))), "held", "20 % of the old ones"),
    "all others": (with_split("val", split(images(20, 700))), "held", "100 % of the old ones are gone or have other names"),
    "much smaller": (with_split("train", split(images(100), 500)), "held", "images were rewritten"),
    "no val any more": (
        with_data(splits={name: one for name, one in OLD.data.splits.items() if name != "val"}), "held", "val is not named",
    ),
    "plan": (replace(OLD, model=replace(OLD.model, sha256="n")), "held", "describes another model now"),
    "another model": (
        replace(OLD, model=Model(name="/m/b.yaml", path="/m/b.yaml", sha256="n")), "held", "the model was /m/tiny.yaml",
    ),
    "imgsz without an edit": (replace(OLD, arguments={"imgsz": 320, "batch": 16}), "held", "the job file was not edited"),
    "Ultralytics": (with_versions(ultralytics="8.4.191"), "held", "Ultralytics was 8.4.190 and is 8.4.191"),
    "a bad Ultralytics": (with_versions(ultralytics="8.3.193"), "held", "resume into another folder"),
}  # fmt: skip


@pytest.mark.parametrize(("new", "kind", "words"), CASES.values(), ids=CASES)
def test_each_difference_has_its_class(new, kind, words):
    """What is harmless is said, what moved is repaired, what changes the training is held; and in words."""
    [found] = compare(OLD, new)
    assert (found.kind, words in found.text) == (kind, True), found


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (("A100", "A100"), ("L40S", "L40S"), "moves from 2 x A100 to 2 x L40S; the total batch of 16 is kept"),
        (("A100", "A100"), ("A100",), "moves from 2 x A100 to 1 x A100; the total batch of 16 is kept"),
        (("A100",), ("L40S", "A100"), "moves from 1 x A100 to 1 x A100, 1 x L40S; the total batch of 16 is kept"),
        (("A100",), (), "moves from 1 x A100 to the CPU; the total batch of 16 is kept"),
        (("", ""), ("A100",), "moves from 2 GPUs to 1 x A100; the total batch of 16 is kept"),
        (("A100", "L40S"), ("L40S", "A100"), ""),
        (("A100",), ("",), ""),
    ],
)
def test_other_gpus_are_harmless_and_named(before, now, words):
    """Their products are said where they are known; what is not known is not said to be another."""
    old, new = (replace(OLD, gpus=len(names), gpu_names=names) for names in (before, now))
    assert [(one.kind, one.text) for one in compare(old, new)] == ([("harmless", words)] if words else [])


def test_weights_that_changed_are_harmless():
    """A resume takes its weights from the checkpoint, whatever became of the file that the run began from."""
    old = replace(OLD, model=Model(name="/m/yolo11n.pt", path="/m/yolo11n.pt", sha256="x", size_bytes=5))
    [found] = compare(old, replace(old, model=replace(old.model, sha256="y")))
    assert found.kind == "harmless"
    big = replace(old, model=replace(old.model, sha256=""))
    assert compare(big, big) == ()


def test_a_stage_changes_its_arguments_without_a_word():
    """The plan says itself what it changed."""
    assert compare(OLD, replace(OLD, stage=50, arguments={"imgsz": 320})) == ()


def test_a_batch_that_ultralytics_found_is_that_of_the_checkpoint():
    """With batch = -1, or none named, nobody but the checkpoint knows the total."""
    for arguments in ({"batch": -1}, {"batch": 0.7}, {}):
        old = replace(OLD, arguments=arguments)
        [found] = compare(old, replace(old, gpus=2))
        assert found.text == "moves from 1 GPU to 2 GPUs; the total batch in the checkpoint is kept"


def test_versions_that_cannot_read_their_own_checkpoints_are_held():
    """Ultralytics before 8.2 with torch from 2.6 on dies at every resume, so that torch alone is reason enough."""
    old = with_versions(ultralytics="8.1.47", torch="2.5.1")
    found = compare(old, replace(old, versions={**old.versions, "torch": "2.6.0"}))
    assert [one.kind for one in found] == ["harmless", "held"]
    assert "needs torch below 2.6" in found[1].text
    assert set(KNOWN_BAD) == {"8.3.175", "8.3.193"}


def test_what_was_not_seen_is_not_compared():
    """Without data, without a model, with missing paths or with more images than could be counted."""
    assert compare(OLD, replace(OLD, data=None, model=None, versions={})) == ()
    assert compare(Fingerprint(), OLD) == ()
    assert compare(OLD, with_data(missing=("/d/images/val",), names=("x",))) == ()
    partial = msgspec.structs.replace(split(images(10)), partial=True)
    [found] = compare(OLD, with_split("train", partial))
    assert (found.kind, "not compared" in found.text) == ("harmless", True)


def test_data_that_are_not_there_are_no_change_but_a_lost_disk():
    """A path that was there and is not, or an empty folder where images were: that is said, not compared."""
    assert lost(OLD, OLD) == ""
    assert lost(OLD, with_data(missing=("/d/images/val",))) == "/d/images/val is not there"
    assert "held 100 images and holds none" in lost(OLD, with_split("train", split([])))
    assert lost(OLD, with_split("test", split([]))) == ""
    never = replace(OLD, data=Data(name="x", missing=("/d/images/val",)))
    assert lost(never, with_data(missing=("/d/images/val",))) == ""
    assert lost(Fingerprint(), with_data(missing=("/d",))) == ""


@pytest.mark.parametrize(("before", "after", "least", "most"), [
    (images(50_000), images(50_000), 0.0, 0.0),
    (images(50_000), images(400_000), 0.0, 0.0),
    (images(50_000), images(50_000, 25_000), 0.35, 0.65),
    (images(50_000), images(1_000), 0.97, 0.99),
    (images(50_000), images(50_000, 90_000), 1.0, 1.0),
])  # fmt: skip
def test_the_share_that_is_gone_is_estimated(before, after, least, most):
    """Of large sets from a sample; a set that only grew never seems to have lost any."""
    assert least <= gone(split(before), split(after)) <= most


fingerprints = st.builds(
    Fingerprint,
    revision=st.sampled_from(["r1", "r2"]),
    gpus=st.none() | st.integers(0, 4),
    arguments=st.dictionaries(st.sampled_from(["imgsz", "batch"]), st.integers(-1, 64)),
    data=st.none()
    | st.builds(
        Data,
        name=st.just("d"),
        sha256=st.sampled_from("ab"),
        root=st.sampled_from(["/a", "/b"]),
        names=st.none() | st.lists(st.sampled_from("xyz"), unique=True).map(tuple),
        others=st.dictionaries(st.sampled_from(["channels", "x"]), st.sampled_from("12")),
        splits=st.dictionaries(
            st.sampled_from(["train", "val", "test"]),
            st.lists(st.sampled_from(images(40)), unique=True).map(split),
        ),
    ),
    versions=st.dictionaries(
        st.sampled_from(["ultralytics", "torch", "numpy"]), st.sampled_from(["1.0", "8.1.1", "2.6"])
    ),
)


@given(fingerprints)
def test_equal_is_no_difference(one):
    """What did not change is never said; the order of tables is no difference; it survives being written."""
    turned = msgspec.convert(
        {key: dict(reversed(value.items())) if isinstance(value, dict) else value
         for key, value in msgspec.to_builtins(one).items()},
        Fingerprint,
    )  # fmt: skip
    assert compare(one, turned) == ()
    assert compare(one, msgspec.json.decode(msgspec.json.encode(one), type=Fingerprint)) == ()


@given(fingerprints, fingerprints)
def test_every_difference_has_one_class_and_words(old, new):
    """Whatever is compared, there is an answer; a change of the classes is always held."""
    found = compare(old, new)
    assert {one.kind for one in found} <= {"harmless", "repairable", "held"}
    assert len({one.text for one in found}) == len(found)
    if old.data and new.data and None not in {old.data.names, new.data.names} and old.data.names != new.data.names:
        assert any(one.kind == "held" and "class" in one.text for one in found)
