"""How trainings die: for each rule a case with the lines that tell it, in the words of the programs that write them.

`rows` are those of the catalogue of signatures (1 to 101) that the case covers.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.data.log_parts import SITE, TORCH, UL, in_worker, torchrun, traceback

Case = dict[str, object]
CUDA_TAIL = (
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.",
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
    "",
)


def case(
    rule: str,
    rows: Sequence[int],
    body: Sequence[str],
    *,
    stage: str = "train",
    family: str = "ultralytics",
    last: bool = False,
) -> Case:
    """A case. `last`: nothing is written after the body."""
    return {"rule": rule, "rows": tuple(rows), "family": family, "stage": stage, "body": tuple(body), "last": last}


def cuda(
    rule: str, row: int, text: str, *, context: str = "forward", stage: str = "train", family: str = "ultralytics"
) -> Case:
    """An error of CUDA, with what torch always adds; newer versions have a class of their own for it."""
    name = "torch.AcceleratorError" if row % 2 else "RuntimeError"
    return case(rule, [row], traceback(context, f"{name}: CUDA error: {text}", *CUDA_TAIL), stage=stage, family=family)


def kernel(rule: str, text: str) -> Case:
    """A line of the kernel's log that somebody sends into the training's output."""
    lines = (f"[412031.{number}21] {text}" for number in (1,))
    died = traceback("forward", "RuntimeError: GPU worker process is gone")
    return case(rule, [55], [*lines, *died])


def rank_end(rule: str, row: int, code: int) -> Case:
    """A process of a multi-GPU training that was ended by a signal: only torchrun tells."""
    others = [(0, -15)] if code != -15 else []
    return case(rule, [row], torchrun(1, code, others=others), family="ddp", last=True)


INFO: list[Case] = [
    case("oom-halved", [26], ["\x1b[33m\x1b[1mWARNING ⚠️\x1b[0m CUDA backend memory error with batch=32. Reducing to batch=16 and retrying (2/3)."], stage="info"),
    case("assigner-oom", [27], ["WARNING ⚠️ CUDA out of memory in TaskAlignedAssigner with batch_size=64 and max_num_obj=901; using CPU"], stage="info", family="old"),
    case("resume-ignores", [74], ["WARNING ⚠️ Resume ignores ['epochs', 'optimizer'], using checkpoint values."], stage="info"),
    case("label-cache-not-written", [81], ["WARNING ⚠️ val: Cache directory /mnt/ro/set/labels is not writable, cache not saved."], stage="info"),
    case("amp-off", [83], ["AMP: checks failed ❌. Anomalies were detected with AMP on your system that may lead to NaN losses or zero-mAP results, so AMP will be disabled during training."], stage="info"),
    case("nan-recovery", [84], ["WARNING ⚠️ Fitness NaN/Inf detected (attempt 2/3), recovering from last.pt..."], stage="info"),
    case("early-stopping", [89], ["EarlyStopping: Training stopped early as no improvement observed in last 50 epochs. Best results observed at epoch 112, best model saved as best.pt."], stage="info"),
    case("image-skipped", [], ["train: WARNING ⚠️ /data/oom_runs/images/7.jpg: ignoring corrupt image/label: image size (8, 8) <10 pixels"], stage="info", family="yolov5"),
    case("autoinstall-off", [94], ["WARNING ⚠️ requirements: Ultralytics requirement ['cloudpickle>=3.1.1'] not found, AutoUpdate disabled by YOLO_AUTOINSTALL=False"], stage="info", family="ddp"),
    case("font-download", [], ["WARNING ⚠️ Download failure for https://ultralytics.com/assets/Arial.Unicode.ttf. Environment may be offline."], stage="info"),
    case("logger-told", [], ["wandb: ERROR Error while calling W&B API: context deadline exceeded (<Response [504]>)"], stage="info", family="yolov5"),
    case("tensorboard-port", [], ["E1122 09:12:44.104 140212 program.py:300] TensorBoard could not bind to port 6006, it was already in use"], stage="info"),
    case("xid-note", [], ["[99121.100] NVRM: Xid (PCI:0000:af:00): 92, pid=991, name=python, High single-bit ECC error rate"], stage="info"),
]  # fmt: skip

WORKERS: list[Case] = [
    case("worker-killed", [1], traceback("loader", "RuntimeError: DataLoader worker (pid 51734) is killed by signal: Killed. ")),
    case("worker-bus-error", [2], traceback("loader", "RuntimeError: DataLoader worker (pid 412) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit.")),
    case("worker-bus-error-told", [3], ["ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).", *traceback("v5-loader", "RuntimeError: DataLoader worker (pid(s) 991) exited unexpectedly")], family="yolov5"),
    case("shm-full-hang", [4], ["Traceback (most recent call last):", '  File "/opt/conda/envs/yolo/lib/python3.11/multiprocessing/queues.py", line 244, in _feed', "    obj = _ForkingPickler.dumps(obj)", "RuntimeError: unable to allocate shared memory(shm) for file </torch_991_22731_4>: No space left on device (28)"], last=True),
    case("shm-open-files", [5], in_worker("RuntimeError", "RuntimeError: unable to open shared memory object </torch_7711_12> in read-write mode: Too many open files (24)")),
    case("worker-crashed", [6], ["ERROR: Unexpected segmentation fault encountered in worker.", *traceback("loader", "RuntimeError: DataLoader worker (pid 8812) is killed by signal: Segmentation fault. ")], family="old"),
    case("worker-terminated", [7], traceback("v5-loader", "RuntimeError: DataLoader worker (pid 7001) is killed by signal: Terminated. "), family="yolov7"),
    case("worker-exited", [8], traceback("loader", "RuntimeError: DataLoader worker (pid(s) 104, 105, 106) exited unexpectedly")),
    case("worker-exit-code", [9], traceback("loader", "RuntimeError: DataLoader worker (pid 3121) exited unexpectedly with exit code 3. Details are lost due to multiprocessing. Rerunning with num_workers=0 may give better error trace."), family="old"),
    case("loader-timeout", [10], traceback("v5-loader", "RuntimeError: DataLoader timed out after 300 seconds"), family="yolov9"),
    case("pin-memory-thread", [11], traceback("loader", "RuntimeError: Pin memory thread exited unexpectedly"), last=True),
    case("connection-reset", [12], ["Traceback (most recent call last):", '  File "/opt/conda/envs/yolo/lib/python3.11/multiprocessing/resource_sharer.py", line 138, in _serve', "    with self._listener.accept() as conn:", "ConnectionResetError: [Errno 104] Connection reset by peer"], last=True),
    case("ancdata", [13], traceback("loader", "RuntimeError: received 0 items of ancdata")),
    case("open-files", [14], in_worker("OSError", "OSError: [Errno 24] Too many open files: '/data/nan_killed/images/000033.jpg'")),
]  # fmt: skip

STORAGE: list[Case] = [
    case("disk-full", [18], traceback("save", "OSError: [Errno 28] No space left on device"), stage="save"),
    case("torn-write", [], [*traceback("v5-validation", "RuntimeError: PytorchStreamWriter failed writing file data/151: file write failed")], stage="save", family="yolov5"),
    case("disk-quota", [19], traceback("save", "OSError: [Errno 122] Disk quota exceeded"), stage="save", family="old"),
    case("read-only", [20], traceback("save", "OSError: [Errno 30] Read-only file system: '/srv/oom_runs/train/weights/last.pt'"), stage="save"),
    case("io-error", [21], in_worker("OSError", "OSError: [Errno 5] Input/output error")),
    case("stale-handle", [22], in_worker("OSError", "OSError: [Errno 116] Stale file handle: '/nfs/nan_killed/images/3.jpg'")),
    case("mount-gone", [23], in_worker("OSError", "OSError: [Errno 107] Transport endpoint is not connected: '/mnt/gcs/images/3.jpg'")),
    case("disk-check", [24], traceback("dataset", "MemoryError: Insufficient free disk space 3.4 GB < 27.0 GB required, Please free 23.6 GB additional disk space and try again."), stage="start"),
    case("fork-without-memory", [15], traceback("loader", "OSError: [Errno 12] Cannot allocate memory"), stage="validation"),
    case("cpu-allocator", [16], traceback("v5", "RuntimeError: [enforce fail at alloc_cpu.cpp:73] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 1258291200 bytes. Error code 12 (Cannot allocate memory)"), family="yolov9"),
    case("memory-error", [], in_worker("numpy._core._exceptions._ArrayMemoryError", "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 24.0 MiB for an array with shape (2048, 4096, 3) and data type uint8")),
    case("kernel-oom", [17], ["[81211.0] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0-1,oom_memcg=/job,task=python,pid=7711", "[81211.1] Memory cgroup out of memory: Killed process 7711 (python) total-vm:91231230kB"], last=True),
    case("no-more-threads", [], traceback("loader", "RuntimeError: can't start new thread"), stage="validation"),
    case("permission", [], traceback("save", "PermissionError: [Errno 13] Permission denied: '/srv/oom_runs/train/results.csv'"), stage="save"),
    case("time-limit", [], ["slurmstepd: error: *** JOB 99123 ON gpu7 CANCELLED AT 2026-02-11T23:59:41 DUE TO TIME LIMIT ***"], last=True),
]  # fmt: skip

OOM = "CUDA out of memory. Tried to allocate 1.56 GiB. GPU 0 has a total capacity of 44.53 GiB of which 811.94 MiB is free. Including non-PyTorch memory, this process has 43.71 GiB memory in use."
GPU: list[Case] = [
    case("cuda-oom", [25], traceback("backward", f"torch.OutOfMemoryError: {OOM}")),
    case("cuda-oom-validation", [28], traceback("validation", f"torch.cuda.OutOfMemoryError: {OOM}"), stage="validation"),
    cuda("cublas-alloc", 29, "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    cuda("cublas-start", 30, "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasLtCreate(&handle)`"),
    cuda("cublas-failed", 31, "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k, alpha_ptr, a, CUDA_R_16F, lda)`", context="backward"),
    case("cudnn-failed", [32], traceback("v5", "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), family="yolov5"),
    case("cudnn-no-engine", [33], traceback("forward", "RuntimeError: GET was unable to find an engine to execute this computation")),
    cuda("cuda-illegal-access", 34, "an illegal memory access was encountered", context="backward"),
    cuda("cuda-launch-failed", 35, "unspecified launch failure", context="v5", family="yolov7"),
    case("cuda-assert", [36], ['/pytorch/aten/src/ATen/native/cuda/IndexKernel.cu:93: operator(): block: [4,0,0], thread: [31,0,0] Assertion `-sizes[i] <= index && index < sizes[i] && "index out of bounds"` failed.', *traceback("forward", "torch.AcceleratorError: CUDA error: device-side assert triggered", *CUDA_TAIL)]),
    cuda("cuda-illegal-instruction", 37, "an illegal instruction was encountered"),
    cuda("cuda-misaligned", 38, "misaligned address"),
    cuda("gpu-watchdog", 39, "the launch timed out and was terminated", context="v5", family="yolov5"),
    cuda("gpu-ecc", 40, "uncorrectable ECC error encountered"),
    case("gpu-nvlink", [41], traceback("ddp", "torch.AcceleratorError: CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error", *CUDA_TAIL, rank=1) + torchrun(1, 1, others=[(0, -15)]), family="ddp", last=True),
    cuda("gpu-stack", 42, "hardware stack error"),
    cuda("gpu-busy", 43, "CUDA-capable device(s) is/are busy or unavailable", context="start", stage="start"),
    case("gpu-missing", [44], traceback("start", "RuntimeError: No CUDA GPUs are available"), stage="start"),
    case("gpu-index", [45], traceback("start", "ValueError: Invalid CUDA 'device=7' requested. Use 'device=cpu' or pass valid CUDA device(s) if available, i.e. 'device=0' or 'device=0,1,2,3' for Multi-GPU."), stage="start"),
    case("fabric-manager", [46], traceback("start", "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized"), stage="start"),
    case("driver-combination", [47], traceback("start", "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system has unsupported display driver / cuda driver combination"), stage="start"),
    case("driver-too-old", [48], traceback("start", "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"), stage="start", family="yolov5"),
    case("cuda-start", [49], traceback("start", "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."), stage="start"),
    case("no-kernel-image", [50], traceback("start", "RuntimeError: CUDA error: no kernel image is available for execution on the device", *CUDA_TAIL), stage="start"),
    case("cuda-fork", [51], in_worker("RuntimeError", "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method"), stage="start"),
    case("torch-without-cuda", [52], traceback("start", "AssertionError: Torch not compiled with CUDA enabled"), stage="start"),
    case("gpu-lost", [53], ["Unable to determine the device handle for GPU1: 0000:65:00.0: GPU is lost.  Reboot the system to recover this GPU", *traceback("forward", "RuntimeError: CUDA error: unknown error", *CUDA_TAIL)]),
    case("driver-mismatch", [54], ["Failed to initialize NVML: Driver/library version mismatch", "NVML library version: 570.133", *traceback("start", "RuntimeError: No CUDA GPUs are available")], stage="start"),
    kernel("xid-lost", "NVRM: GPU at PCI:0000:65:00: GPU-5d1c has fallen off the bus."),
    kernel("xid-memory", "NVRM: Xid (PCI:0000:65:00): 95, pid=4711, name=python, Uncontained: LTC TAG (0x7,0x0). RST: Yes, D-RST: No"),
    kernel("xid-link", "NVRM: Xid (PCI:0000:65:00): 145, pid=4711, name=python, NVLink: RLW_REMAP Fatal error on link 3"),
    kernel("xid-firmware", "NVRM: Xid (PCI:0000:65:00): 120, pid=4711, name=python, GSP task exception"),
    kernel("xid-access", "NVRM: Xid (PCI:0000:65:00): 13, pid=4711, name=python, Graphics SM Warp Exception on (GPC 2, TPC 1, SM 0): Out Of Range Address"),
    case("xid-follows", [], ["[412031.121] NVRM: Xid (PCI:0000:65:00): 43, pid=4711, name=python, Ch 00000028"], last=True),
    kernel("xid", "NVRM: Xid (PCI:0000:65:00): 109, pid=4711, name=python, Ch 00000008, errorString CTX SWITCH TIMEOUT"),
    cuda("cuda-error", 101, "operation failed due to a previous error during capture", context="backward"),
]  # fmt: skip

WATCHDOG = "[E301 10:12:31.812 ProcessGroupNCCL.cpp:688] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=40021, OpType=ALLREDUCE, NumelIn=3151904, NumelOut=3151904, Timeout(ms)=600000) ran for 600021 milliseconds before timing out."
SEVERAL: list[Case] = [
    case("nccl-timeout", [56], [f"[rank1]:{WATCHDOG}", "[rank1]:[E301 10:12:31.9 ProcessGroupNCCL.cpp:702] [Rank 1] To avoid data inconsistency, we are taking the entire process down.", "terminate called after throwing an instance of 'c10::DistBackendError'", *torchrun(1, -6, others=[(0, -15)])], family="ddp", last=True),
    case("nccl-blocking-wait", [57], [*traceback("ddp", "torch.distributed.DistBackendError: NCCL Operation WorkNCCL(SeqNum=991, OpType=BROADCAST, NumelIn=1, NumelOut=1, Timeout(ms)=10800000) timed out in blocking wait.", rank=0), *torchrun(0, 1, others=[(1, -15)])], family="ddp", last=True),
    case("nccl-error", [58], [*traceback("ddp", "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.26.2", "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. ", rank=1), *traceback("ddp", "torch.distributed.DistBackendError: NCCL error in: remote process exited", "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.", rank=0), *torchrun(1, 1, others=[(0, 1)])], family="ddp", last=True),
    case("child-failed", [59], torchrun(0, 1), family="ddp", last=True),
    rank_end("rank-killed", 60, -9),
    rank_end("rank-aborted", 61, -6),
    rank_end("rank-crashed", 62, -11),
    rank_end("rank-bus-error", 62, -7),
    case("rank-cleaned-up", [63], ["W301 10:12:41 torch/distributed/elastic/multiprocessing/api.py:900] Sending process 7100 closing signal SIGTERM", "E301 10:12:41 torch/distributed/elastic/multiprocessing/api.py:874] failed (exitcode: -15) local_rank: 0 (pid: 7100) of binary: /opt/conda/envs/yolo/bin/python"], family="ddp", last=True),
    case("port-in-use", [64], [*traceback("ddp-start", "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 41251, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use")], family="ddp", stage="start", last=True),
    case("port-taken", [64], [*traceback("ddp-start", "OSError: [Errno 98] Address already in use")], family="yolov5", stage="start", last=True),
    case("rendezvous", [65], [*traceback("ddp-start", "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while trying to connect to (gpu7.lab.example, 41251)."), *torchrun(1, 1)], family="ddp", stage="start", last=True),
    case("peer-closed", [65], [*traceback("ddp", "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.7]:31221", rank=0)], family="ddp", last=True),
    case("launcher-failed", [66], [*traceback("forward")[:5], f'  File "{UL}/engine/trainer.py", line 239, in train', "    subprocess.run(cmd, check=True)", "subprocess.CalledProcessError: Command '['/opt/conda/envs/yolo/bin/python', '-m', 'torch.distributed.run', '--nproc_per_node', '4', '/home/lab/.config/Ultralytics/DDP/_temp_ab12.py']' returned non-zero exit status 1."], family="ddp", last=True),
    case("launcher-terminated", [67], [*traceback("ddp-start", "torch.distributed.elastic.multiprocessing.api.SignalException: Process 7099 got signal: 15")], family="ddp", last=True),
    case("launcher-interrupted", [67], [*traceback("ddp-start", "torch.distributed.elastic.multiprocessing.api.SignalException: Process 7099 got signal: 2")], family="ddp", last=True),
    case("replica", [100], [*traceback("v5", "RuntimeError: Caught RuntimeError in replica 2 on device 2.")], family="yolov7", last=True),
    case("device-mix", [100], [*traceback("v5", "RuntimeError: Caught RuntimeError in replica 1 on device 1.", "Original Traceback (most recent call last):", f'  File "{TORCH}/nn/parallel/parallel_apply.py", line 108, in _worker', "    output = module(*input, **kwargs)", "RuntimeError: Expected all tensors to be on the same device, but got index is on cuda:0, different from other tensors on cuda:1")], family="yolov5"),
]  # fmt: skip

CHECKPOINTS: list[Case] = [
    case("checkpoint-torn", [68], traceback("resume", "RuntimeError: PytorchStreamReader failed reading file data/49: invalid header or archive is corrupted"), stage="start"),
    case("checkpoint-corrupt", [69], [*traceback("resume", "EOFError: Ran out of input"), "", "The above exception was the direct cause of the following exception:", "", *traceback("resume", "TypeError: ERROR ❌️ /srv/oom_runs/train/weights/last.pt is not a loadable checkpoint — the file is empty, truncated or corrupted.")], stage="start"),
    case("checkpoint-missing", [70], traceback("resume", "FileNotFoundError: Resume checkpoint not found. Please pass a valid checkpoint to resume from, i.e. 'yolo train resume model=path/to/last.pt'"), stage="start"),
    case("already-finished", [71], traceback("resume", "AssertionError: /srv/oom_runs/train/weights/last.pt training to 100 epochs is finished, nothing to resume.", "Start a new training without resuming, i.e. 'yolo train model=/srv/oom_runs/train/weights/last.pt'"), stage="start"),
    case("no-epochs-left", [95], ["Starting training for 300 epochs...", *traceback("v5", "UnboundLocalError: local variable 'epoch' referenced before assignment")], stage="start", family="yolov9"),
    case("new-training", [72], ["WARNING ⚠️ 'last.pt' is not a resumable training checkpoint (it holds no optimizer). Starting new training instead.", "Starting training for 100 epochs...", *traceback("forward", "RuntimeError: the run was stopped")], stage="start"),
    case("weights-only-load", [73], traceback("resume", "_pickle.UnpicklingError: Weights only load failed. In PyTorch 2.6, we changed the default value of the `weights_only` argument in `torch.load` from `False` to `True`."), stage="start", family="yolov9"),
    case("checkpoint-other-model", [76], traceback("resume", "RuntimeError: Error(s) in loading state_dict for DetectionModel:", "\tsize mismatch for model.23.cv3.0.2.weight: copying a param with shape torch.Size([80, 80, 1, 1]) from checkpoint"), stage="start"),
    case("poisoned-checkpoint", [87], traceback("resume", "RuntimeError: Checkpoint /srv/nan_killed/last.pt is corrupted with NaN/Inf weights"), stage="start"),
    case("nan-not-recovered", [85], ["WARNING ⚠️ Fitness NaN/Inf detected but can not recover from last.pt..."], stage="save", last=True),
    case("nan", [86], traceback("save", "RuntimeError: Training failed: NaN persisted for 3 epochs"), stage="save"),
    case("nan-losses", [88], [], stage="losses", last=True),
]  # fmt: skip

DATA: list[Case] = [
    case("dataset-missing", [77], [*traceback("dataset", "FileNotFoundError: Dataset '/data/nan_killed/data.yaml' images not found, missing path '/data/nan_killed/images/val'"), "", "The above exception was the direct cause of the following exception:", "", *traceback("dataset", "RuntimeError: Dataset '/data/nan_killed/data.yaml' error ❌ Dataset images not found, missing path '/data/nan_killed/images/val'")], stage="start"),
    case("image-missing", [78], in_worker("FileNotFoundError", "FileNotFoundError: Image Not Found /data/nan_killed/images/train/000033.jpg")),
    case("labels-missing", [79], traceback("labels", "FileNotFoundError: train: No labels found in /data/oom_runs/labels/train.cache, can not start training."), stage="start"),
    case("wrong-class-count", [80], [*traceback("dataset", "SyntaxError: data.yaml 'names' length 12 and 'nc: 10' must match."), "", "The above exception was the direct cause of the following exception:", "", *traceback("dataset", "RuntimeError: Dataset 'data.yaml' error ❌ data.yaml 'names' length 12 and 'nc: 10' must match.")], stage="start"),
    case("label-class-too-high", [80], traceback("v5", "AssertionError: Label class 10 exceeds nc=10 in data.yaml. Possible class labels are 0-9"), stage="start", family="yolov5"),
    case("data-yaml", [], traceback("dataset", "RuntimeError: Dataset 'data.yaml' error ❌ data.yaml 'val:' key missing ❌.", "'train' and 'val' are required in all data YAMLs."), stage="start"),
    case("image-corrupt", [], in_worker("OSError", "OSError: image file is truncated (41 bytes not processed)")),
    case("label-corrupt", [], traceback("labels", "AssertionError: labels require 5 columns, 9 columns detected"), stage="start", family="yolov7"),
    case("download-failed", [82], traceback("start", "ConnectionError: ERROR ❌ Download failure for https://github.com/ultralytics/assets/releases/download/v8.4.0/yolo26m.pt. Environment may be offline."), stage="start"),
]  # fmt: skip

ENVIRONMENT: list[Case] = [
    case("bad-argument", [], [*traceback("arguments", "SyntaxError: '\x1b[31m\x1b[1mlearning_rate\x1b[0m' is not a valid YOLO argument. ", "", "    Arguments received: ['yolo', 'train', 'learning_rate=0.1']. Ultralytics 'yolo' commands use the following syntax:")], stage="start"),
    case("impossible-arguments", [90], traceback("start", "ValueError: AutoBatch with batch<1 not supported for Multi-GPU training, please specify a valid batch size multiple of GPU count 2, i.e. batch=16."), stage="start", family="ddp"),
    case("batch-of-one", [91], traceback("v5", "ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 256, 1, 1])"), family="yolov5"),
    case("package-missing", [75], traceback("import", "ModuleNotFoundError: No module named 'cv2'"), stage="start"),
    case("class-gone", [75], traceback("resume", f"AttributeError: Can't get attribute 'A2C2f' on <module 'ultralytics.nn.modules.block' from '{UL}/nn/modules/block.py'>"), stage="start"),
    case("numpy-too-new", [92], traceback("validation", "AttributeError: module 'numpy' has no attribute 'float'.", "`np.float` was a deprecated alias for the builtin `float`."), stage="validation"),
    case("torchvision-mismatch", [93], traceback("import", f"ImportError: {SITE}/torchvision/_C.so: undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jRKSs"), stage="start"),
    case("system-library-missing", [93], traceback("import", "ImportError: libgthread-2.0.so.0: cannot open shared object file: No such file or directory"), stage="start"),
    case("package-changed", [94], ["requirements: AutoUpdate success ✅ 4.1s, installed 1 package: ['lap>=0.5.12']", "WARNING ⚠️ requirements: Restart runtime or rerun command for updates to take effect"], stage="start"),
    case("file-missing", [], traceback("start", "FileNotFoundError: [Errno 2] No such file or directory: '/srv/oom_runs/yolo26x.pt'"), stage="start"),
    case("logger-offline", [99], traceback("save", "wandb.errors.errors.CommError: failed to upload data: HTTPSConnectionPool(host='api.wandb.ai', port=443): Max retries exceeded"), stage="save"),
    case("interrupted", [96], traceback("forward", "KeyboardInterrupt")),
    case("heap-corrupt", [97], ["corrupted double-linked list", "Aborted (core dumped)"], last=True),
    case("segmentation-fault", [62], ["/srv/jobs/run.sh: line 9: 21991 Segmentation fault      (core dumped) yolo train data=data.yaml"], family="old", last=True),
    case("killed", [17], ["/srv/jobs/run.sh: line 9: 21991 Killed                  python train.py --data data.yaml"], family="yolov9", last=True),
    case("crash-at-exit", [98], ["FATAL: exception not rethrown", "Aborted (core dumped)"], last=True),
]  # fmt: skip

CASES: list[Case] = [*INFO, *WORKERS, *STORAGE, *GPU, *SEVERAL, *CHECKPOINTS, *DATA, *ENVIRONMENT]
