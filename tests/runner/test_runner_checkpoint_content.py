"""What the cheap check reads out of files with tensors and classes of any family, and what it finds wrong in them."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import time
from collections import OrderedDict

import pytest
import torch_file
from runner_lab import RUNNER
from torch_file import Call, Named, Object, halves, module, tensor, training

from supervisor.runner.checkpoint import inspect

DTYPE = ("numpy", "dtype")


def look(tmp_path, content, *, finite=False, **how):
    """Write a checkpoint and look at it."""
    return inspect(str(torch_file.write(tmp_path / "last.pt", content, **how)), finite)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_whole_metadata_is_read(tmp_path, protocol):
    """Version, metrics, EMA count, class, class names, arguments and tensors are told, whatever the protocol."""
    metrics = {"metrics/mAP50-95(B)": 0.4, "val/box_loss": float("nan"), "fitness": 1}
    arguments = {"epochs": 5, "imgsz": [640, 640], "name": None, "lr0": 0.01, "half": False, "deep": {"a": {"b": 1}}}
    content = training(version="8.4.190", train_metrics=metrics, train_args=arguments)
    found = look(tmp_path, content, protocol=protocol)
    assert (found["version"], found["updates"], found["model"]) == ("8.4.190", 40, "models.yolo.Model")
    assert found["metrics"] == {"metrics/mAP50-95(B)": 0.4, "fitness": 1.0}
    assert found["class_names"] == ["red", "blue"]
    assert found["arguments"] == arguments
    assert (found["tensors"], found["tensor_bytes"], found["doubts"]) == (2, 12, [])


def test_names_in_a_wrapped_model_are_found(tmp_path):
    """A model within another (DDP, torch.compile) and a list of names are read too."""
    inner = module("models.yolo.Model", names=["a", "b"])
    wrapped = module("torch.nn.parallel.distributed.DistributedDataParallel", _modules=OrderedDict(module=inner))
    assert look(tmp_path, training(ema=wrapped))["class_names"] == ["a", "b"]


def test_older_forms_of_options_are_read(tmp_path):
    """A Namespace with paths under `opt`, and numbers of numpy, as YOLOv5, v7 and v9 wrote them."""
    save_dir = Call("pathlib", "PosixPath", "/", "runs", "exp")
    opt = Object("argparse", "Namespace", {"epochs": 9, "save_dir": save_dir})
    fitness = Call("numpy._core.multiarray", "scalar", Call(*DTYPE, "f4", False, True), struct.pack("<f", 0.5))
    content = training(opt=opt, best_fitness=fitness)
    del content["train_args"]
    found = look(tmp_path, content, protocol=4)
    assert (found["epochs"], found["save_dir"], found["best_fitness"]) == (9, "/runs/exp", 0.5)


def test_state_dicts_without_a_class_are_checkpoints_too(tmp_path):
    """A model as ordered dict of tensors needs no class; sets, sizes and dtypes on the way are walked."""
    extra = [Call("torch", "Size", [1, 2]), Named("torch", "float16"), {1, 2}, frozenset([3]), OrderedDict(a=1)]
    weights = OrderedDict([("w", tensor("Float", struct.pack("<2f", 1, 2)))])
    found = look(tmp_path, training(ema=weights, extra=extra))
    assert (found["state"], found["model"], found["class_names"]) == ("resumable", None, None)


def test_a_storage_without_its_record_is_torn(tmp_path):
    """What the pickle asks for must be in the zip."""
    data, storages = torch_file.pickled(training())
    records = {"archive/data.pkl": data, "archive/data/0": storages["0"].data}
    (tmp_path / "last.pt").write_bytes(torch_file.archive(records))
    found = inspect(str(tmp_path / "last.pt"))
    assert (found["state"], "archive/data/1 is missing" in found["reason"]) == ("torn", True)


def test_a_storage_of_another_size_is_torn(tmp_path):
    """A record with a right CRC, but not of the size that its tensor has, is of another file."""
    found = look(tmp_path, training(weights=tensor("Half", halves(1.0, 2.0), numel=3)))
    assert (found["state"], "4 bytes instead of 6" in found["reason"]) == ("torn", True)


def test_a_record_that_belongs_to_nothing_is_a_doubt(tmp_path):
    """Too much is not wrong, but worth a deep check."""
    found = look(tmp_path, training(), more={"archive/data/99": b"x"})
    assert (found["state"], found["doubts"]) == ("resumable", ["record archive/data/99 belongs to no tensor"])


def test_an_unknown_type_of_tensor_is_a_doubt(tmp_path):
    """What cannot be compared is said."""
    torch_file.WIDTHS["Moon"] = 2
    found = look(tmp_path, training(weights=tensor("Moon", b"1234")))
    assert found["state"] == "resumable"
    assert "torch.MoonStorage" in found["doubts"][0]


@pytest.mark.parametrize(("crc", "state"), [(True, "resumable"), (False, "resumable")])
def test_a_file_without_crcs_is_doubted_not_torn(tmp_path, crc, state):
    """Torch can be told to write none; then a changed byte cannot be seen, and only a load can help."""
    data, storages = torch_file.pickled(training())
    records = {"archive/data.pkl": data, **{f"archive/data/{key}": one.data for key, one in storages.items()}}
    (tmp_path / "last.pt").write_bytes(torch_file.archive(records, crc=crc))
    found = inspect(str(tmp_path / "last.pt"))
    assert found["state"] == state
    assert any("without CRCs" in doubt for doubt in found["doubts"]) is not crc


GOOD = {
    "Half": halves(65504.0, -65504.0, 6e-8, 0.0),
    "BFloat16": bytes.fromhex("7f7f7fff0100803f"),  # the largest of both signs, the smallest, 1.0
    "Float": struct.pack("<4f", 3.4028234e38, -3.4028234e38, 1e-45, 0.0),
    "Double": struct.pack("<3d", 1.7976931348623157e308, -1.7976931348623157e308, 0.0),
}
BAD = {
    "Half": [halves(float("inf")), halves(float("-inf")), halves(float("nan")), b"\x01\x7c", b"\xff\xff"],
    "BFloat16": [b"\x80\x7f", b"\x80\xff", b"\xc0\x7f", b"\x81\xff"],
    "Float": [struct.pack("<f", float(one)) for one in ("inf", "-inf", "nan")] + [b"\x01\x00\x80\x7f"],
    "Double": [struct.pack("<d", float(one)) for one in ("inf", "-inf", "nan")] + [b"\x01" + bytes(5) + b"\xf0\xff"],
}


@pytest.mark.parametrize("kind", GOOD)
def test_no_number_is_wrongly_called_bad(tmp_path, kind):
    """The largest and the smallest numbers of each format are finite."""
    assert look(tmp_path, training(weights=tensor(kind, GOOD[kind] * 3)), finite=True)["finite"] is True


@pytest.mark.parametrize(("kind", "bad"), [(kind, bad) for kind, list_ in BAD.items() for bad in list_])
def test_nan_and_inf_poison_wherever_they_stand(tmp_path, kind, bad):
    """One number in one tensor, first, last or behind a whole chunk, is found; without the search nobody looks."""
    fine = bytes(len(bad)) * 400_000
    for data in (bad + fine, fine + bad, fine[: len(fine) // 2] + bad + fine[len(fine) // 2 :]):
        found = look(tmp_path, training(weights=tensor(kind, data)), finite=True)
        assert (found["state"], found["finite"]) == ("poisoned", False)
        assert "archive/data/0" in found["reason"]
    found = inspect(str(tmp_path / "last.pt"))
    assert (found["state"], found["finite"]) == ("resumable", None)


def test_the_optimizer_is_searched_too(tmp_path):
    """A momentum of NaN spoils the next step."""
    momentum = {"state": {0: {"exp_avg": tensor("Float", struct.pack("<2f", 1, float("nan")))}}}
    assert look(tmp_path, training(optimizer=momentum), finite=True)["state"] == "poisoned"


def test_whole_numbers_have_no_nan(tmp_path):
    """The bytes of integers mean nothing to the search."""
    assert look(tmp_path, training(weights=tensor("Long", b"\xff" * 64)), finite=True)["finite"] is True


INF, NAN = float("inf"), float("nan")


def judged(tmp_path, number, where):
    """The state of a checkpoint with this number at one place, and whether that is told as a doubt."""
    data = tensor("Half", halves(1.0, number))
    found = look(tmp_path, training(**where(data)), finite=True)
    return found["state"], any("which is no weight" in doubt for doubt in found["doubts"])


def in_module(**parts):
    """A checkpoint whose EMA has something more."""
    return {"ema": module("models.yolo.Detect", **parts)}


@pytest.mark.parametrize(
    "where",
    [
        lambda data: in_module(anchors=data),  # RT-DETR's, of the last image
        lambda data: in_module(cache=[data], names={"a": {"b": (data,)}}),
        lambda data: in_module(_buffers=OrderedDict(attn_mask=data)),
        lambda data: in_module(_modules=OrderedDict(block=module("torch.nn.Linear", hidden=[data]))),
        lambda data: in_module(hidden=[module("torch.nn.Linear", _parameters=OrderedDict(weight=data))]),
    ],
)
def test_what_a_module_only_remembers_is_no_poison(tmp_path, where):
    """Inf is there on purpose, as in masks; NaN is told, and the training goes on with what it learned."""
    assert judged(tmp_path, -INF, where) == ("resumable", False)
    assert judged(tmp_path, NAN, where) == ("resumable", True)


@pytest.mark.parametrize(
    "where",
    [
        lambda data: in_module(_parameters=OrderedDict(gamma=data)),
        lambda data: in_module(_buffers=OrderedDict(running_var=data)),
        lambda data: in_module(_modules=OrderedDict(one=module("torch.nn.Linear", _parameters={"w": data}))),
        lambda data: in_module(_parameters=OrderedDict(weight=data), remembered=data),
        lambda data: {"ema": {"net": module("torch.nn.Linear", _parameters=OrderedDict(weight=data))}},
        lambda data: {"ema": None, "model": OrderedDict({"model.0.weight": data})},
        lambda data: {"ema": OrderedDict({"0.bias": data})},
        lambda data: {"ema": OrderedDict({"1.running_mean": data})},
        lambda data: {"optimizer": {"state": {0: {"exp_avg": data}}, "param_groups": [{}]}},
    ],
)
def test_nan_and_inf_in_what_was_learned_are_poison(tmp_path, where):
    """Parameters, running statistics, the optimizer's state; in modules, in state dicts, shared with an attribute."""
    assert [judged(tmp_path, number, where)[0] for number in (INF, NAN)] == ["poisoned", "poisoned"]


def test_a_mask_in_a_state_dict_may_hold_inf(tmp_path):
    """Parameters and buffers have names only: NaN is poison under any of them."""

    def where(data):
        return {"ema": OrderedDict({"0.weight": tensor("Half", halves(1.0)), "0.attn.mask": data})}

    assert judged(tmp_path, -INF, where) == ("resumable", False)
    assert judged(tmp_path, NAN, where)[0] == "poisoned"


@pytest.mark.parametrize("key", ["best", "loss_items", "scaler", "rng"])
@pytest.mark.parametrize("number", [INF, NAN])
def test_what_a_trainer_notes_beside_its_model_is_not_judged(tmp_path, key, number):
    """The best fitness so far, the losses of the last batch, a scaler: no weights."""
    assert judged(tmp_path, number, lambda data: {key: {"x": data}}) == ("resumable", False)
    assert judged(tmp_path, number, lambda data: {key: data}) == ("resumable", False)


def test_somebodys_own_format_is_searched_too(tmp_path):
    """A bare state dict: weights must be finite."""
    found = look(tmp_path, OrderedDict({"0.weight": tensor("Half", halves(NAN)), "epoch": 3}), finite=True)
    assert found["state"] == "poisoned"
    whole, loss = tensor("Half", halves(1.0)), tensor("Half", halves(NAN))
    found = look(tmp_path, {"net": {"0.weight": whole}, "loss": loss}, finite=True)
    assert found["state"] == "weights_only"


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "eval"),
        ("__builtin__", "exec"), ("builtins", "__import__"), ("runpy", "run_path"), ("shutil", "rmtree"),
        ("torch.serialization", "os.system"), ("io", "open"), ("importlib", "import_module"), ("torch", "load"),
        ("torch.storage", "_load_from_bytes"), ("numpy", "load"), ("socket", "create_connection"), ("ctypes", "CDLL"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4])
def test_names_that_no_checkpoint_needs_are_hostile(tmp_path, package, name, protocol):
    """Such a file is told apart, whether the name would be called or not, in both ways of naming."""
    found = look(tmp_path, training(extra=Named(package, name)), protocol=protocol)
    assert found["state"] == "hostile"
    assert name in found["reason"]


def test_a_name_that_the_pickle_computes_is_hostile(tmp_path):
    """What cannot be read off the file is not trusted."""
    data = b"\x80\x04}(\x8c\x05epochK\x01\x8c\x01xcmodels\nname\n)R\x8c\x01y\x93u."
    path = tmp_path / "last.pt"
    path.write_bytes(torch_file.archive({"archive/data.pkl": data}))
    assert inspect(str(path))["state"] == "hostile"


def test_a_hostile_name_before_rubbish_is_hostile(tmp_path):
    """The machine that runs a pickle comes to the call before it comes to the rubbish."""
    path = tmp_path / "last.pt"
    path.write_bytes(torch_file.archive({"archive/data.pkl": b"cposix\nsystem\n\xff\xff\xff"}))
    assert inspect(str(path))["state"] == "hostile"


def old_format(content, *, keys=(), tail=b""):
    """A file as torch before 1.6 wrote it: pickles one after the other, then the storages."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    parts = (0x1950A86A20F9469CFC6C, 1001, machine, content, list(keys))
    return b"".join(one if isinstance(one, bytes) else pickle.dumps(one, 2) for one in parts) + tail


@pytest.mark.parametrize("finite", [False, True])
def test_the_old_format_is_weights_only_and_doubted(tmp_path, finite):
    """Its facts are told, but nothing proves it whole: no family resumes it, a custom command may."""
    path = tmp_path / "last.pt"
    path.write_bytes(old_format({"epoch": 3, "model": {"w": 1}, "optimizer": {"state": {}}, "opt": {"epochs": 9}}))
    found = inspect(str(path), finite)
    assert (found["state"], found["epoch"], found["epochs"], found["finite"]) == ("weights_only", 3, 9, None)
    assert found["doubts"] == ["old format: only a deep check can say whether it is whole"]


@pytest.mark.parametrize(("missing_bytes", "state"), [(0, "weights_only"), (1, "torn")])
def test_the_end_of_an_old_file_is_missed(tmp_path, missing_bytes, state):
    """A kill inside the save leaves fewer bytes than the storages need."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0aX\x03\0\0\0cpuK\x02NtQ"
    tail = struct.pack("<Q2f", 2, 1.0, 2.0)
    path = tmp_path / "last.pt"
    path.write_bytes(old_format(b"\x80\x02" + storage + b".", keys=["a"], tail=tail[: len(tail) - missing_bytes]))
    assert inspect(str(path))["state"] == state


def test_hostile_and_broken_files_of_the_old_format(tmp_path):
    """Nothing in them is executed, whatever follows the number that they begin with."""
    path = tmp_path / "last.pt"
    path.write_bytes(old_format(b"cposix\nsystem\nX\x04\0\0\0true\x85R."))
    assert inspect(str(path))["state"] == "hostile"
    for rubbish in (b"", b"\xff", b"}.", b"cmodels\nx"):
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + rubbish)
        assert inspect(str(path))["state"] == "torn"


@pytest.mark.parametrize("name", ["getattr", "setattr"])
def test_names_that_lead_somewhere_unseen_are_a_doubt(tmp_path, name):
    """Bound methods are pickled by getattr, so it is no crime; a deep check settles it."""
    found = look(tmp_path, training(extra=Named("builtins", name)))
    assert (found["state"], found["doubts"]) == ("resumable", [f"its pickle names builtins.{name}"])


def bomb(head=b"", body=b"", count=0, tail=b"."):
    """A pickle made of one part many times."""
    return head + body * count + tail


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02r" + struct.pack("<I", 2**28) + b".",  # nine bytes that take 4 GiB of a real unpickler
        b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".",
        bomb(b"", b"]", 3_000_000),
        bomb(b"", b"}", 3_000_000),
        bomb(b"N", b"\x85", 3_000_000),  # a tuple in a tuple in …
        bomb(b"]", b"2a", 2_000_000),  # a list in itself
        bomb(b"", b"(", 3_000_000),
        bomb(b"(", b"N", 3_000_000, b"t0."),
        bomb(b"I", b"9", 2_000_000, b"\n."),  # a number of two million digits
        bomb(b"L", b"9", 2_000_000, b"L\n."),
        bomb(b"]q\x00", b"h\x00h\x00\x86q\x00", 200_000),  # each twice the one before
        bomb(b"}(", b"h\x00h\x00\x86q\x00N", 100_000, b"u."),  # the same as a key, which a dict would hash
        b"X" + struct.pack("<I", 30_000_000) + b"x" * 30_000_000 + b".",
        b"\x8b" + struct.pack("<i", 20_000_000) + b"\x7f" * 20_000_000 + b".",
    ],
)
@pytest.mark.e2e
def test_a_bomb_costs_little(tmp_path, data):
    """No pickle costs more than seconds, and none more than the child's 512 MiB: else it would not answer."""
    path = tmp_path / "last.pt"
    path.write_bytes(torch_file.archive({"archive/data.pkl": data}))
    command = [sys.executable, "-I", "-S", RUNNER / "checkpoint.py", "--finite", path]
    before = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - before < 10.0
    assert json.loads(done.stdout)["state"] in {"torn", "weights_only"}


def test_answers_stay_small_and_are_always_json(tmp_path):
    """Texts that no encoding knows, endless texts, huge numbers and nested arguments end up as a small JSON."""
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    arguments = {"epochs": 10**300, "ha": laughs, "text": "\ud800" + "x" * 10**6, "inf": float("inf")}
    found = look(tmp_path, training(train_args=arguments, version="\udcff"))
    text = json.dumps(found, allow_nan=False)
    assert len(text) < 100_000
    assert json.loads(text.encode("utf-8"))["epochs"] is None


def test_memory_does_not_follow_the_memo_of_a_pickle(tmp_path):
    """A value stored a hundred thousand times at rising places is one value."""
    data = b"}" + b"".join(b"r" + struct.pack("<I", place * 1000) for place in range(100_000)) + b"."
    path = tmp_path / "last.pt"
    path.write_bytes(torch_file.archive({"archive/data.pkl": data}))
    assert inspect(str(path))["state"] == "weights_only"


def test_the_scan_reads_what_pickle_reads():
    """For plain values the scan and Python's own machine agree."""
    from supervisor.runner.pickle_scan import PickleScan

    value = {"a": [1, 2.5, None, True, (1, "x"), [], {}, b"raw"], "b": {"c": (1, 2, 3, 4)}, "d": -(2**40), "e": "é数"}
    for protocol in range(2, 6):
        assert PickleScan().run(pickle.dumps(value, protocol)) == value
