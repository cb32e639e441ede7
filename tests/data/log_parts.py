"""What logs of trainings are made of: beginnings, progress bars and tracebacks of each family, as they really look.

The numbers come from a generator with a fixed seed, so that the same case always makes the same log.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

SITE = "/opt/conda/envs/yolo/lib/python3.11/site-packages"
UL, TORCH = f"{SITE}/ultralytics", f"{SITE}/torch"
LAYERS = (
    (-1, 1, 464, "ultralytics.nn.modules.conv.Conv", "[3, 16, 3, 2]"),
    (-1, 1, 4672, "ultralytics.nn.modules.conv.Conv", "[16, 32, 3, 2]"),
    (-1, 1, 6640, "ultralytics.nn.modules.block.C3k2", "[32, 64, 1, False, 0.25]"),
    (-1, 1, 36992, "ultralytics.nn.modules.conv.Conv", "[64, 64, 3, 2]"),
    (-1, 1, 26080, "ultralytics.nn.modules.block.C3k2", "[64, 128, 1, False, 0.25]"),
    (-1, 1, 147712, "ultralytics.nn.modules.conv.Conv", "[128, 128, 3, 2]"),
    (-1, 1, 87040, "ultralytics.nn.modules.block.C3k2", "[128, 128, 1, True]"),
    (-1, 1, 295424, "ultralytics.nn.modules.conv.Conv", "[128, 256, 3, 2]"),
    (-1, 1, 346112, "ultralytics.nn.modules.block.C3k2", "[256, 256, 1, True]"),
    (-1, 1, 164608, "ultralytics.nn.modules.block.SPPF", "[256, 256, 5]"),
    (-1, 1, 249728, "ultralytics.nn.modules.block.C2PSA", "[256, 256, 1]"),
    (-1, 1, 0, "torch.nn.modules.upsampling.Upsample", "[None, 2, 'nearest']"),
    ([-1, 6], 1, 0, "ultralytics.nn.modules.conv.Concat", "[1]"),
    (-1, 1, 111296, "ultralytics.nn.modules.block.C3k2", "[384, 128, 1, False]"),
    (-1, 1, 0, "torch.nn.modules.upsampling.Upsample", "[None, 2, 'nearest']"),
    ([-1, 4], 1, 0, "ultralytics.nn.modules.conv.Concat", "[1]"),
    (-1, 1, 32096, "ultralytics.nn.modules.block.C3k2", "[256, 64, 1, False]"),
    (-1, 1, 36992, "ultralytics.nn.modules.conv.Conv", "[64, 64, 3, 2]"),
    ([-1, 13], 1, 0, "ultralytics.nn.modules.conv.Concat", "[1]"),
    (-1, 1, 86720, "ultralytics.nn.modules.block.C3k2", "[192, 128, 1, False]"),
    (-1, 1, 147712, "ultralytics.nn.modules.conv.Conv", "[128, 128, 3, 2]"),
    ([-1, 10], 1, 0, "ultralytics.nn.modules.conv.Concat", "[1]"),
    (-1, 1, 378880, "ultralytics.nn.modules.block.C3k2", "[384, 256, 1, True]"),
    ([16, 19, 22], 1, 464912, "ultralytics.nn.modules.head.Detect", "[80, [64, 128, 256]]"),
)
# paths and names that look like troubles and are none
TRAPS = (
    "/data/nan_killed/data.yaml",
    "/srv/oom_runs/CUDA error: drills",
    "cuda_out_of_memory_study",
    "/mnt/Bus error/set",
)

Frame = tuple[str, int, str, str]
MAIN: tuple[Frame, ...] = (
    ("/opt/conda/envs/yolo/bin/yolo", 8, "<module>", "sys.exit(entrypoint())"),
    (f"{UL}/cfg/__init__.py", 986, "entrypoint", "getattr(model, mode)(**overrides)"),
    (f"{UL}/engine/model.py", 799, "train", "self.trainer.train()"),
    (f"{UL}/engine/trainer.py", 243, "train", "self._do_train()"),
)
V5_MAIN: tuple[Frame, ...] = (
    ("train.py", 986, "<module>", "main(opt)"),
    ("train.py", 852, "main", "train(opt.hyp, opt, device, callbacks)"),
)
_STEP: Frame = (f"{UL}/engine/trainer.py", 447, "_do_train", "loss, self.loss_items = self.model(batch)")
CONTEXTS: dict[str, tuple[Frame, ...]] = {
    "forward": (
        *MAIN, _STEP,
        (f"{TORCH}/nn/modules/module.py", 1775, "_wrapped_call_impl", "return self._call_impl(*args, **kwargs)"),
        (f"{UL}/nn/tasks.py", 139, "forward", "return self.loss(x, *args, **kwargs)"),
        (f"{UL}/nn/modules/conv.py", 79, "forward_fuse", "return self.act(self.conv(x))"),
        (f"{TORCH}/nn/modules/conv.py", 543, "_conv_forward", "return F.conv2d("),
    ),
    "backward": (
        *MAIN,
        (f"{UL}/engine/trainer.py", 455, "_do_train", "self.scaler.scale(self.loss).backward()"),
        (f"{TORCH}/_tensor.py", 647, "backward", "torch.autograd.backward("),
        (f"{TORCH}/autograd/graph.py", 829, "_engine_run_backward", "return Variable._execution_engine.run_backward("),
    ),
    "loader": (
        *MAIN,
        (f"{UL}/engine/trainer.py", 427, "_do_train", "for i, batch in pbar:"),
        (f"{UL}/data/build.py", 76, "__iter__", "yield next(self.iterator)"),
        (f"{TORCH}/utils/data/dataloader.py", 734, "__next__", "data = self._next_data()"),
        (f"{TORCH}/utils/data/dataloader.py", 1482, "_next_data", "idx, data = self._get_data()"),
    ),
    "save": (
        *MAIN,
        (f"{UL}/engine/trainer.py", 541, "_do_train", "self.save_model()"),
        (f"{UL}/engine/trainer.py", 655, "save_model", "self.last.write_bytes(serialized_ckpt)  # save last.pt"),
        ("/opt/conda/envs/yolo/lib/python3.11/pathlib.py", 1067, "write_bytes", "return f.write(view)"),
    ),
    "validation": (
        *MAIN,
        (f"{UL}/engine/trainer.py", 512, "_do_train", "self.metrics, self.fitness = self.validate()"),
        (f"{UL}/engine/validator.py", 223, "__call__", 'preds = model(batch["img"], augment=augment)'),
        (f"{UL}/utils/nms.py", 91, "non_max_suppression", "x = x[xc[xi]]"),
    ),
    "start": (
        *MAIN[:3],
        (f"{UL}/engine/trainer.py", 308, "_setup_train", "self.model = self.model.to(self.device)"),
        (f"{TORCH}/nn/modules/module.py", 1371, "to", "return self._apply(convert)"),
        (f"{TORCH}/cuda/__init__.py", 412, "_lazy_init", "torch._C._cuda_init()"),
    ),
    "dataset": (
        *MAIN[:3],
        (f"{UL}/engine/trainer.py", 137, "__init__", "self.data = self.get_dataset()"),
        (f"{UL}/engine/trainer.py", 688, "get_dataset", "data = check_det_dataset(self.args.data)"),
    ),
    "labels": (
        *MAIN,
        (f"{UL}/models/yolo/detect/train.py", 91, "get_dataloader", "dataset = self.build_dataset(dataset_path, mode, batch_size)"),
        (f"{UL}/data/dataset.py", 171, "get_labels", "cache, exists = self.cache_labels(cache_path), False"),
    ),
    "resume": (
        *MAIN[:3],
        (f"{UL}/engine/trainer.py", 811, "check_resume", "ckpt_args = load_checkpoint(last)[0].args"),
        (f"{UL}/nn/tasks.py", 1498, "torch_safe_load", 'ckpt = torch_load(file, map_location="cpu")'),
        (f"{TORCH}/serialization.py", 1530, "load", "with _open_zipfile_reader(opened_file) as opened_zipfile:"),
    ),
    "import": (
        ("/opt/conda/envs/yolo/bin/yolo", 5, "<module>", "from ultralytics.cfg import entrypoint"),
        (f"{UL}/__init__.py", 12, "<module>", "from ultralytics.utils import ASSETS, SETTINGS"),
        (f"{UL}/utils/__init__.py", 24, "<module>", "import cv2"),
    ),
    "arguments": (
        *MAIN[:1],
        (f"{UL}/cfg/__init__.py", 902, "entrypoint", 'check_dict_alignment(full_args_dict, {a: ""})'),
        (f"{UL}/cfg/__init__.py", 512, "check_dict_alignment", "raise SyntaxError(string + CLI_HELP_MSG) from e"),
    ),
    "v5": (
        *V5_MAIN,
        ("train.py", 411, "train", "pred = model(imgs)  # forward"),
        ("/home/lab/yolov5/models/yolo.py", 270, "forward", "return self._forward_once(x, profile, visualize)"),
    ),
    "v5-loader": (
        *V5_MAIN,
        ("train.py", 377, "train", "for i, (imgs, targets, paths, _) in pbar:"),
        ("/home/lab/yolov5/utils/dataloaders.py", 240, "__iter__", "yield next(self.iterator)"),
        (f"{TORCH}/utils/data/dataloader.py", 734, "__next__", "data = self._next_data()"),
    ),
    "v5-validation": (
        *V5_MAIN,
        ("train.py", 470, "train", "results, maps, _ = validate.run("),
        ("/home/lab/yolov5/val.py", 322, "run", "preds = non_max_suppression("),
    ),
    "ddp": (
        ("/home/lab/.config/Ultralytics/DDP/_temp_x1k2.py", 13, "<module>", "results = trainer.train()"),
        MAIN[3],
        (f"{UL}/engine/trainer.py", 455, "_do_train", "self.scaler.scale(self.loss).backward()"),
        (f"{TORCH}/autograd/graph.py", 829, "_engine_run_backward", "return Variable._execution_engine.run_backward("),
    ),
    "ddp-start": (
        ("/home/lab/.config/Ultralytics/DDP/_temp_x1k2.py", 13, "<module>", "results = trainer.train()"),
        (f"{UL}/engine/trainer.py", 258, "_setup_ddp", "dist.init_process_group("),
        (f"{TORCH}/distributed/distributed_c10d.py", 1775, "init_process_group", "store, rank, world_size = next(rendezvous_iterator)"),
    ),
}  # fmt: skip


def traceback(context: str, *error: str, rank: int | None = None) -> list[str]:
    """A traceback as Python prints it; `error` are the lines of the exception itself."""
    lines = ["Traceback (most recent call last):"]
    for file, line, function, code in CONTEXTS[context]:
        lines += [f'  File "{file}", line {line}, in {function}', f"    {code}"]
    prefix = "" if rank is None else f"[rank{rank}]: "
    return [prefix + line for line in (*lines, *error)]


def in_worker(name: str, error: str, number: int = 3) -> list[str]:
    """An exception of a dataloader worker, as the main process repeats it."""
    return [
        f"{name}: Caught {name} in DataLoader worker process {number}.",
        "Original Traceback (most recent call last):",
        f'  File "{TORCH}/utils/data/_utils/worker.py", line 349, in _worker_loop',
        "    data = fetcher.fetch(index)  # type: ignore[possibly-undefined]",
        f'  File "{UL}/data/base.py", line 379, in __getitem__',
        "    return self.transforms(self.get_image_and_label(index))",
        f'  File "{UL}/data/base.py", line 218, in load_image',
        "    im = imread(f, flags=self.cv2_flag)  # BGR",
        error,
        "",
    ]


class Log:
    """A log that is being written. `family`: ultralytics, old, yolov5, yolov7, yolov9 or ddp."""

    def __init__(self, seed: str, family: str) -> None:
        self.family = family
        self._random = random.Random(seed)
        self._text: list[str] = []
        self.batches = self._random.choice((132, 265, 500))
        self.zero_based = family in {"yolov5", "yolov7", "yolov9"}

    def add(self, *lines: str) -> None:
        """Write whole lines."""
        self._text += [f"{line}\n" for line in lines]

    def bytes(self) -> bytes:
        """All that was written."""
        return "".join(self._text).encode()

    # ---- beginnings
    def begin(self) -> None:
        """Everything before the first frame."""
        trap = self._random.choice(TRAPS)
        self._job_script(trap)
        if self.zero_based:
            self._begin_script(trap)
        else:
            self._begin_ultralytics(trap)

    def _job_script(self, trap: str) -> None:
        """What the scripts around trainings like to print first."""
        self.add(
            "+ hostname",
            "gpu7.lab.example",
            f"+ cd {trap}",
            "+ nvidia-smi",
            "+-----------------------------------------------------------------------------------------+",
            "| NVIDIA-SMI 570.133.20             Driver Version: 570.133.20     CUDA Version: 12.8     |",
            "|-----------------------------------------+------------------------+----------------------+",
            "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |",
            "|=========================================+========================+======================|",
            "|   0  NVIDIA L40S                    On  |   00000000:65:00.0 Off |                    0 |",
            "| N/A   41C    P8             33W /  350W |       1MiB /  46068MiB |      0%      Default |",
            "+-----------------------------------------+------------------------+----------------------+",
            "|  No running processes found                                                             |",
            "+-----------------------------------------------------------------------------------------+",
            f"+ yolo train data={trap} name='CUDA out of memory. Tried to allocate'",
        )

    def _begin_ultralytics(self, trap: str) -> None:
        device = "0,1" if self.family == "ddp" else "0"
        self.add(
            "New version ultralytics 8.4.201 available 😃 Update with 'pip install -U ultralytics'",
            "Ultralytics 8.4.190 🚀 Python-3.11.9 torch-2.8.0+cu128 CUDA:0 (NVIDIA L40S, 45596MiB)",
            f"\x1b[34m\x1b[1mengine/trainer: \x1b[0magnostic_nms=False, amp=True, batch=16, cache=False, data={trap}, device={device},"
            f" epochs=300, exist_ok=True, imgsz=640, model=yolo26n.pt, name={trap}, save_dir=/runs/{trap}, task=detect, workers=8",
        )
        if self.family == "ddp":
            self.add(
                "DDP: debug command ['/opt/conda/envs/yolo/bin/python', '-m', 'torch.distributed.run', '--nproc_per_node', '2', "
                "'--master_port', '41251', '/home/lab/.config/Ultralytics/DDP/_temp_x1k2.py']",
            )
        self._layers()
        self.add(
            "YOLO26n summary: 260 layers, 2,572,280 parameters, 2,572,280 gradients, 6.1 GFLOPs",
            "",
            "Transferred 708/708 items from pretrained weights",
            "Freezing layer 'model.23.dfl.conv.weight'",
            "\x1b[34m\x1b[1mAMP: \x1b[0mrunning Automatic Mixed Precision (AMP) checks...",
            "\x1b[34m\x1b[1mAMP: \x1b[0mchecks passed ✅",
            "\x1b[34m\x1b[1mtrain: \x1b[0mFast image access ✅ (ping: 0.1±0.0 ms, read: 1312.4±301.2 MB/s, size: 50.4 KB)",
            f"\x1b[K\x1b[34m\x1b[1mtrain: \x1b[0mScanning {trap}/labels/train.cache... 4000 images, 21 backgrounds, 0 corrupt: 100% ━━━━━━━━━━━━ 4000/4000 9.1Mit/s 0.0s",
            f"\x1b[K\x1b[34m\x1b[1mval: \x1b[0mScanning {trap}/labels/val.cache... 800 images, 2 backgrounds, 0 corrupt: 100% ━━━━━━━━━━━━ 800/800 1.2Mit/s 0.0s",
        )

    def _begin_script(self, trap: str) -> None:
        head = {
            "yolov5": "YOLOv5 🚀 v7.0-411-gd9a8e31 Python-3.11.9 torch-2.5.1+cu124 CUDA:0 (NVIDIA A100, 40960MiB)",
            "yolov7": "YOLOR 🚀 v0.1-128-ga207844 torch 1.13.1+cu117 CUDA:0 (NVIDIA A100, 40960MB)",
            "yolov9": "YOLO 🚀 v0.1-104-g5b1ea9a Python-3.10.14 torch-2.1.2+cu121 CUDA:0 (NVIDIA A100, 40960MiB)",
        }[self.family]
        if self.family == "yolov7":
            self.add(
                head,
                "",
                f"Namespace(weights='yolov7.pt', cfg='', data='{trap}', epochs=300, batch_size=16, name='{trap}')",
            )
        else:
            self.add(
                f"\x1b[34m\x1b[1mtrain: \x1b[0mweights=yolov5s.pt, cfg=, data={trap}, hyp=data/hyps/hyp.scratch-low.yaml, epochs=300, batch_size=16, name={trap}",
                "\x1b[34m\x1b[1mgithub: \x1b[0mup to date with https://github.com/ultralytics/yolov5 ✅",
                head,
                "",
            )
        self.add(
            "\x1b[34m\x1b[1mhyperparameters: \x1b[0mlr0=0.01, lrf=0.01, momentum=0.937, weight_decay=0.0005, warmup_epochs=3.0, box=0.05",
            "\x1b[34m\x1b[1mTensorBoard: \x1b[0mStart with 'tensorboard --logdir runs/train', view at http://localhost:6006/",
        )
        self._layers()
        self.add(
            "Model summary: 214 layers, 7235389 parameters, 7235389 gradients, 16.6 GFLOPs",
            "",
            "Transferred 349/349 items from yolov5s.pt",
            "optimizer: SGD(lr=0.01) with parameter groups 57 weight(decay=0.0), 60 weight(decay=0.0005), 60 bias",
            f"train: Scanning '{trap}/labels/train.cache' images and labels... 4000 found, 0 missing, 21 empty, 0 corrupt: 100%|██████████| 4000/4000 [00:00<?, ?it/s]",
            f"val: Scanning '{trap}/labels/val.cache' images and labels... 800 found, 0 missing, 2 empty, 0 corrupt: 100%|██████████| 800/800 [00:00<?, ?it/s]",
            "AutoAnchor: 4.27 anchors/target, 0.994 Best Possible Recall (BPR). Current anchors are a good fit to dataset ✅",
        )

    def _layers(self) -> None:
        self.add("", "                   from  n    params  module                                       arguments")
        for number, (origin, count, size, module, arguments) in enumerate(LAYERS):
            self.add(f"{number:>3}{origin!s:>20}{count:>3}{size:>10}  {module:<45}{arguments}")

    def training_begins(self) -> None:
        """What stands directly before the first epoch."""
        self.add(
            f"Plotting labels to runs/{TRAPS[0]}/labels.jpg... ",
            "Image sizes 640 train, 640 val",
            "Using 8 dataloader workers",
            "Logging results to \x1b[1m/runs/oom_runs/train\x1b[0m",
            "Starting training for 300 epochs...",
        )

    # ---- epochs
    def epoch(self, number: int, *, until: int | None = None, validated: bool = True, losses: str = "") -> None:
        """An epoch counted from 1: header, frames, validation. With `until` it stops at that batch, without a line end."""
        shown = number - 1 if self.zero_based else number
        names = ("box_loss", "obj_loss", "cls_loss") if self.zero_based else ("box_loss", "cls_loss", "dfl_loss")
        self.add(
            "", f"{'Epoch':>11}{'GPU_mem':>11}{names[0]:>11}{names[1]:>11}{names[2]:>11}{'Instances':>11}{'Size':>11}"
        )
        last = until or self.batches
        for batch in sorted({0, last // 3, last - 1 if until is None else last, last}):
            self._text.append(self._frame(shown, batch, losses))
        if until is not None:
            return
        self._text.append("\n")
        if validated:
            self._validation()

    def _frame(self, epoch: int, batch: int, losses: str) -> str:
        total = 299 if self.zero_based else 300
        cells = losses or "".join(f"{self._random.uniform(0.2, 2.0):>11.4g}" for _ in range(3))
        start = f"{f'{epoch}/{total}':>11}{'11.3G':>11}{cells}{self._random.randrange(20, 400):>11}{640:>11}"
        percent = batch * 100 // self.batches
        if self.family in {"ultralytics", "ddp"}:
            bar = "━" * (percent * 12 // 100) + "─" * (12 - percent * 12 // 100)
            return f"\r\x1b[K{start}: {percent}% {bar} {batch}/{self.batches} 4.1it/s {batch / 4.1:.1f}s<{(self.batches - batch) / 4.1:.1f}s"
        bar = "█" * (percent // 10)
        return f"\r{start}: {percent:>3}%|{bar:<10}| {batch}/{self.batches} [00:{batch % 60:02}<01:05,  4.11it/s]"

    def _validation(self) -> None:
        figures = [self._random.uniform(0.3, 0.8) for _ in range(4)]
        cells = "".join(f"{one:>11.3g}" for one in figures)
        self.add(
            f"{'Class':>22}{'Images':>11}{'Instances':>11}{'P':>11}{'R':>11}{'mAP50':>11}{'mAP50-95':>11}: 100% ━━━━━━━━━━━━ 25/25 8.2it/s 3.0s",
            f"{'all':>22}{800:>11}{6310:>11}{cells}",
        )

    def end(self) -> None:
        """The good end of a training."""
        self.add(
            "",
            "300 epochs completed in 3.141 hours.",
            "Optimizer stripped from /runs/oom_runs/train/weights/last.pt, 5.5MB",
            "Optimizer stripped from /runs/oom_runs/train/weights/best.pt, 5.5MB",
            "",
            "Validating /runs/oom_runs/train/weights/best.pt...",
        )
        self._validation()
        self.add(
            "Speed: 0.1ms preprocess, 0.9ms inference, 0.0ms loss, 0.7ms postprocess per image",
            "Results saved to \x1b[1m/runs/nan_killed/train\x1b[0m",
        )


def torchrun(rank: int, code: int, *, others: Sequence[tuple[int, int]] = (), word: str = "") -> list[str]:
    """How torchrun sums up: the rank that failed first, and what the others got."""
    return [
        *traceback("ddp-start")[:1],
        '  File "/opt/conda/envs/yolo/lib/python3.11/runpy.py", line 198, in _run_module_as_main',
        "    return _run_code(code, main_globals, None,",
        f'  File "{TORCH}/distributed/launcher/api.py", line 277, in launch_agent',
        "    raise ChildFailedError(",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "=" * 60,
        "/home/lab/.config/Ultralytics/DDP/_temp_x1k2.py FAILED",
        "-" * 60,
        "Failures:",
        *_members(others),
        "-" * 60,
        "Root Cause (first observed failure):",
        *_members([(rank, code)], word),
        "=" * 60,
        *traceback("forward")[:5],
        f'  File "{UL}/engine/trainer.py", line 239, in train',
        "    subprocess.run(cmd, check=True)",
        (
            "subprocess.CalledProcessError: Command '['/opt/conda/envs/yolo/bin/python', '-m', 'torch.distributed.run', '--nproc_per_node', '2', "
            "'--master_port', '41251', '/home/lab/.config/Ultralytics/DDP/_temp_x1k2.py']' returned non-zero exit status 1."
        ),
    ]


def _members(members: Sequence[tuple[int, int]], word: str = "") -> Iterator[str]:
    if not members:
        yield "  <NO_OTHER_FAILURES>"
    names = {-6: "SIGABRT", -7: "SIGBUS", -9: "SIGKILL", -11: "SIGSEGV", -15: "SIGTERM"}
    for place, (rank, code) in enumerate(members):
        signal = f" ({names[code]})" if code in names else ""
        reason = f"Signal {-code} ({names[code]}) received by PID {7100 + rank}" if code in names else word
        yield f"[{place}]:"
        yield "  time      : 2026-03-01_10:12:41"
        yield "  host      : gpu7.lab.example"
        yield f"  rank      : {rank} (local_rank: {rank})"
        yield f"  exitcode  : {code} (pid: {7100 + rank}){signal}"
        yield "  error_file: <N/A>"
        yield f"  traceback : {reason or 'To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html'}"
