"""A checkpoint of the shape and the size of a yolo11x, made without torch."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

from tests.runner import torch_file

MODULES = 170  # with nine storages each: 1,530 records, as a yolo11x with SGD has
LAYERS_WITHOUT_TENSORS = 2150  # so that its pickle takes as many steps as the real one: 300,000
_HOOKS = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks",
    "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def write(path: Path, size_bytes: int) -> Path:
    """Write a file of about this size: fp16 weights and momentum, all numbers finite."""
    weight = _halves(size_bytes // MODULES // 2)
    return torch_file.write(path, _content(weight))


def _halves(size_bytes: int) -> bytes:
    """Random numbers of 16 bits without NaN and Inf: not all bits of an exponent are set."""
    block = bytearray(os.urandom(min(size_bytes, 2**20) & ~1))
    block[1::2] = bytes(byte & 0xBF for byte in block[1::2])
    return (bytes(block) * (size_bytes // max(1, len(block)) + 1))[: size_bytes & ~1]


def _content(weight: bytes) -> dict[str, Any]:
    small = _halves(1280)
    parts: OrderedDict[str, Any] = OrderedDict()
    momentum: dict[int, Any] = {}
    for number in range(MODULES):
        parts[str(number)] = _layer(weight, small)
        for data in (weight, small, small):
            momentum[len(momentum)] = {"momentum_buffer": torch_file.tensor("Half", data)}
    for number in range(LAYERS_WITHOUT_TENSORS):
        parts[f"act{number}"] = _module("torch.nn.modules.activation.SiLU", inplace=True)
    model = _module("ultralytics.nn.tasks.DetectionModel", _modules=parts, names={0: "a", 1: "b"})
    state = {"state": momentum, "param_groups": [{"lr": 0.01, "params": list(range(len(momentum)))}]}
    return torch_file.training(epoch=99, epochs=300, ema=model, optimizer=state, version="8.4.190")


def _layer(weight: bytes, small: bytes) -> Any:
    one = {name: torch_file.tensor("Half", small) for name in ("weight", "bias", "running_mean", "running_var")}
    counted = {"num_batches_tracked": torch_file.tensor("Long", bytes(8))}
    parameters = OrderedDict(weight=one["weight"], bias=one["bias"])
    buffers = OrderedDict(running_mean=one["running_mean"], running_var=one["running_var"], **counted)
    convolution = {"weight": torch_file.tensor("Half", weight), "bias": None}
    conv = _module("torch.nn.modules.conv.Conv2d", _parameters=OrderedDict(convolution), stride=(1, 1), padding=(0, 0))
    norm = _module("torch.nn.modules.batchnorm.BatchNorm2d", _parameters=parameters, _buffers=buffers, eps=0.001)
    return _module("ultralytics.nn.modules.conv.Conv", _modules=OrderedDict(conv=conv, bn=norm))


def _module(kind: str, **parts: Any) -> Any:
    hooks: dict[str, Any] = {name: OrderedDict() for name in _HOOKS}
    return torch_file.module(
        kind, **{**hooks, "_is_full_backward_hook": None, "_non_persistent_buffers_set": set(), **parts}
    )
