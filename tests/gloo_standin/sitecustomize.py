"""For PYTHONPATH, for tests on machines without GPUs: Ultralytics takes CUDA devices, and trains on the CPU with gloo.

The launch of the ranks, their rendezvous, samplers, gradient averages and checkpoints are the real ones; what only
NVIDIA's hardware can do is not. `device="0"` is one process, `device="0,1"` two ranks. Written for 8.4.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any


def always_cpu(torch_utils: ModuleType) -> None:
    """Let every device be the CPU."""
    import torch

    torch_utils.select_device = lambda *_given, **_named: torch.device("cpu")


def ranks_with_gloo(_detect: ModuleType) -> None:
    """Let a list of devices mean that many ranks."""
    import torch
    from torch import distributed, nn
    from ultralytics.engine import trainer, validator

    class OnCpu(nn.parallel.DistributedDataParallel):
        """Takes the index of no device."""

        def __init__(self, module: Any, **named: Any) -> None:
            super().__init__(module, **{**named, "device_ids": None})

    def set_up(self: Any) -> None:
        self.device = torch.device("cpu")
        distributed.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=self.world_size)

    def select(device: Any = "", **_named: Any) -> Any:
        return SimpleNamespace(type="cuda", index=0) if "," in str(device) else torch.device("cpu")

    class TorchOnCpu:
        """torch, for a module that names the CUDA device of its rank itself."""

        device = staticmethod(lambda *_given: torch.device("cpu"))

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    nn.parallel.DistributedDataParallel = OnCpu
    validator.torch = TorchOnCpu()
    validator.get_torch_device_backend = lambda _device: SimpleNamespace(current_device=lambda: 0)
    trainer.select_device = select
    trainer.get_torch_device_backend = lambda _device: None
    trainer.BaseTrainer._setup_ddp = set_up


class Patched(importlib.abc.Loader):
    """Loads a module and changes it."""

    def __init__(self, loader: Any, change: Any) -> None:
        self.loader, self.change = loader, change

    def create_module(self, spec: Any) -> Any:
        """See Loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See Loader."""
        self.loader.exec_module(module)
        self.change(module)


class Finder(importlib.abc.MetaPathFinder):
    """Finds two modules; the trainer's own is left to the hook of the supervisor, which wraps it too."""

    CHANGES = {  # noqa: RUF012
        "ultralytics.utils.torch_utils": always_cpu,
        "ultralytics.models.yolo.detect.train": ranks_with_gloo,
    }

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """See MetaPathFinder."""
        if name not in self.CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Patched(spec.loader, self.CHANGES[name])
        return spec


sys.meta_path.insert(0, Finder())
