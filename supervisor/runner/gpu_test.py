"""Test one GPU: ``python gpu_test.py [options]``, with the job's own Python, which has torch.

The GPU is the only one that CUDA_VISIBLE_DEVICES shows. It is opened, patterns are written to its memory and read
back, matrices of small whole numbers are multiplied (every sum is exact in float32, in whatever order it is made, so
that a single wrong bit shows), and data is copied there and back. The same is done and the same numbers are used every
time. Prints one JSON object: version, ok, ran, text, device. Standard error names each step as it begins, as
"step: …", so that of one that hangs it is known which one it was.

Exit code 0: passed, 1: failed, 3: it could not be made, which says nothing about the GPU.

    --uuid UUID          what CUDA_VISIBLE_DEVICES names; another GPU is not tested
    --memory-bytes N     test at most so much memory, at most nine tenths of what is free
    --quick              a few seconds instead of half a minute
    --tied               end when standard input is closed: whoever started this is gone
    --device cpu         test this program instead, without a GPU
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path:
    sys.path.pop(0)  # this folder: its modules must not be taken for others of the same name

import argparse
import json
import os
import resource
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, Callable, Dict, List, Optional, Tuple

PASSED, FAILED, NOT_RUN = 0, 1, 3
GIB = 1024**3
#: How long memory and products may take together; a copy and the opening come on top. Half a minute in all.
BUDGET_S, QUICK_S = 24.0, 3.0
MEMORY_SHARE = 0.7  # of the budget
FREE_SHARE, UNKNOWN_SHARE = 0.9, 0.1  # of what is free; of all, where this torch does not tell what is free
BFLOAT16_SINCE = 8  # compute capability: what is older has no such products, though some versions of torch say so
MEMORY_BYTES, QUICK_BYTES = 2 * GIB, 256 * 1024**2
CHUNK_WORDS = 8 * 1024**2  # of four bytes: what is written and compared at a time
COPY_WORDS = 16 * 1024**2
#: Every bit both ways, neighbours alike and different, and (addressed) no two places alike.
PATTERNS = (
    ("addresses", 0, True),
    ("inverse addresses", -1, True),
    ("0x00000000", 0, False),
    ("0xFFFFFFFF", -1, False),
    ("0x55555555", 0x55555555, False),
    ("0xAAAAAAAA", ~0x55555555, False),
)
#: Numbers from -8 to 8 in rows of SIDE: sums stay below 2**24, up to which float32 holds every whole number. On a GPU
#: TILES times TILES of them make one matrix, whose product is that of one tile times TILES.
SIDE, TILES = 1024, 4
MOST_ROUNDS, QUICK_ROUNDS = 100, 3
#: The product of the two matrices: sum of its elements, and sum of each times its place modulo 9973. From int64
#: arithmetic; a processor whose float64 gives another is no judge.
KNOWN = (480006, 5675425406)
#: What torch says where the GPU, not this Python or another user of the GPU, is to blame.
OF_THE_GPU = ("CUDA error", "CUDA driver", "CUDA unknown error", "CUBLAS_STATUS", "cudaGetDeviceCount", "ECC")
ELSEWHERE = (
    "out of memory",
    "driver on your system is too old",
    "no kernel image is available",
    "not compiled with CUDA",
    "busy or unavailable",
    *(f"CUBLAS_STATUS_{word}" for word in ("NOT_SUPPORTED", "ARCH_MISMATCH", "ALLOC_FAILED", "NOT_INITIALIZED")),
)


class NotRun(Exception):  # noqa: N818 -- read as a word: raise NotRun
    """The test cannot be made here; the text says why."""


class Bench:
    """The device under test, and what was found out about it."""

    def __init__(self, torch: Any, options: argparse.Namespace, wrong: List[str]) -> None:
        self.torch = torch
        self.cuda = options.device == "cuda"
        self.quick = options.quick
        self.device: Any = torch.device(options.device)
        self.wrong = wrong
        self.said: List[str] = []
        self.host = _addresses(torch)
        self.ends_at = time.monotonic() + (QUICK_S if self.quick else BUDGET_S)

    def now(self) -> float:
        """Return seconds, when all that was ordered is done."""
        if self.cuda:
            self.torch.cuda.synchronize()
        return time.monotonic()

    def left_s(self) -> float:
        """Return how long the test may still take."""
        return self.ends_at - time.monotonic()


def main(words: Optional[List[str]] = None) -> int:
    """Test the GPU; see the module."""
    options = _options(words)
    with suppress(ValueError, OSError):  # a core would be as large as the GPU's memory; 0 still pipes it
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if options.tied:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not stand in the answer
    found: Dict[str, Any] = {"version": 1, "ok": False, "ran": False, "text": "", "device": ""}
    code = _answer(found, options)
    with out:
        print(json.dumps(found), file=out)
    return code


def _options(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Test the GPU that CUDA_VISIBLE_DEVICES shows.")
    parser.add_argument("--uuid", default="")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--memory-bytes", type=int, default=0, metavar="N")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tied", action="store_true")
    return parser.parse_args(words)


def _end_with_parent() -> None:
    """A test that nobody waits for must not hold the GPU."""
    while os.read(0, 4096):
        pass
    os._exit(NOT_RUN)


_steps: List[str] = []


def _step(words: str) -> None:
    _steps.append(words)
    print(f"step: {words}", file=sys.stderr, flush=True)


def _answer(found: Dict[str, Any], options: argparse.Namespace) -> int:
    wrong: List[str] = []  # what is known to be wrong counts, whatever hinders the rest of the test
    hindrance = ""
    try:
        bench = _bench(options, wrong)
        _test(found, bench, options)
        found["text"] = "; ".join(bench.said)
    except NotRun as reason:
        hindrance = str(reason)
    except Exception as error:  # noqa: BLE001 -- whatever CUDA reports comes as one of many classes
        text = _one_line(error)
        if any(words in text for words in OF_THE_GPU) and not any(words in text for words in ELSEWHERE):
            wrong.append(f"an error while {_steps[-1]}: {text}")
        else:
            hindrance = f"the test could not go on while {_steps[-1]}: {text}"
    if wrong or hindrance:
        found["text"] = "; ".join(wrong) or hindrance
    found.update(ok=not wrong and not hindrance, ran=bool(wrong) or not hindrance)
    return FAILED if wrong else NOT_RUN if hindrance else PASSED


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


def _bench(options: argparse.Namespace, wrong: List[str]) -> Bench:
    _step("importing torch")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # or the same product may be made in another order next time
    try:
        torch = import_module("torch")
    except Exception as error:
        raise NotRun(f"torch cannot be imported in {sys.executable}: {_one_line(error)}") from error
    if hasattr(torch, "set_float32_matmul_precision"):
        torch.set_float32_matmul_precision("highest")
    else:
        torch.backends.cuda.matmul.allow_tf32 = False
    if options.device == "cuda" and torch.version.cuda is None:
        raise NotRun(f"the torch of {sys.executable} was built without CUDA")
    return Bench(torch, options, wrong)


def _test(found: Dict[str, Any], bench: Bench, options: argparse.Namespace) -> None:
    steps: Tuple[Tuple[str, Callable[[], None]], ...] = (
        ("opening the GPU", lambda: found.update(device=_open(bench, options.uuid))),
        ("writing and reading its memory", lambda: _test_memory(bench, options.memory_bytes)),
        ("multiplying matrices", lambda: _test_products(bench)),
        ("copying to the GPU and back", lambda: _test_copies(bench)),
    )
    for words, test in steps:
        _step(words)
        test()


def _open(bench: Bench, uuid: str) -> str:
    began = time.monotonic()
    name = _identified(bench.torch, uuid) if bench.cuda else "cpu"
    bench.torch.zeros(1, device=bench.device).add_(1).item()
    bench.said.append(f"opened in {bench.now() - began:.1f} s")
    bench.ends_at = time.monotonic() + (QUICK_S if bench.quick else BUDGET_S)
    return name


def _identified(torch: Any, uuid: str) -> str:
    """Return the name of the only GPU that is shown. Raises NotRun if it is none, not the only one or another one."""
    count = torch.cuda.device_count()
    if count != 1:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        raise NotRun(f"torch finds {count} GPUs with CUDA_VISIBLE_DEVICES={shown}, not one")
    facts = torch.cuda.get_device_properties(0)
    own = str(getattr(facts, "uuid", "")).lower()  # torch 2.4 and later
    if own and uuid.startswith("GPU-") and own.replace("gpu-", "") != uuid.lower().replace("gpu-", ""):
        raise NotRun(f"torch opened GPU-{own}, not {uuid}")
    return str(facts.name)


def _addresses(torch: Any) -> Any:
    """A number for each place of a chunk, all different: the factor is odd, and 2**32 divided by the golden ratio."""
    places = torch.arange(CHUNK_WORDS, dtype=torch.int64).mul_(2654435761).bitwise_and_(0xFFFFFFFF)
    return places.sub_(2**31).to(torch.int32)


def _test_memory(bench: Bench, most_bytes: int) -> None:
    chunks = _chunks(bench, most_bytes)
    base = bench.host.to(bench.device)
    spare = bench.torch.empty_like(base)
    began, ends_at, wrong, done = bench.now(), time.monotonic() + bench.left_s() * MEMORY_SHARE, [], 0
    for name, value, addressed in PATTERNS[: 2 if bench.quick else None]:
        wrong += _tried(bench, chunks, (base if addressed else None, spare), value, name)
        done += 1
        if time.monotonic() + (bench.now() - began) / done > ends_at:
            break
    bench.wrong += wrong[:1] + ([f"so it was with {len(wrong) - 1} more patterns"] if wrong[1:] else [])
    bench.said.append(f"{len(chunks) * CHUNK_WORDS * 4 / GIB:.2f} GiB of memory held {done} patterns")


def _chunks(bench: Bench, most_bytes: int) -> List[Any]:
    """Take memory, all at once: what is given back would be the next one taken, and the rest never be touched."""
    most_bytes = most_bytes or (QUICK_BYTES if bench.quick else MEMORY_BYTES)
    if bench.cuda:
        most_bytes = min(most_bytes, int(_free_bytes(bench.torch.cuda) * FREE_SHARE) - 2 * CHUNK_WORDS * 4)
    chunks: List[Any] = []
    try:
        for _ in range(max(1, most_bytes // (CHUNK_WORDS * 4))):
            chunks.append(bench.torch.empty(CHUNK_WORDS, dtype=bench.torch.int32, device=bench.device))  # noqa: PERF401 -- those before the last must stay
    except RuntimeError as error:
        if "out of memory" not in str(error) or not chunks:
            raise
    return chunks


def _free_bytes(cuda: Any) -> int:
    if hasattr(cuda, "mem_get_info"):  # torch 1.11 and later
        return int(cuda.mem_get_info()[0])
    return int(cuda.get_device_properties(0).total_memory * UNKNOWN_SHARE)


def _tried(bench: Bench, chunks: List[Any], tensors: Tuple[Any, Any], value: int, name: str) -> List[str]:
    """Write a pattern everywhere, then compare everywhere: nothing is read back from a cache."""
    torch, (base, spare) = bench.torch, tensors
    for number, chunk in enumerate(chunks):
        if base is None:
            chunk.fill_(value)
        else:
            torch.bitwise_xor(base, _salted(value, number), out=chunk)
    counts = []
    for number, chunk in enumerate(chunks):
        counts.append(torch.count_nonzero(_changed(torch, chunk, (base, spare), value, number)))
    found = [int(count) for count in torch.stack(counts).tolist()]
    if not any(found):
        return []
    first = next(number for number, count in enumerate(found) if count)
    bits = _changed(torch, chunks[first], (base, spare), value, first)
    place = int(torch.nonzero(bits)[0].item())
    words, byte = len(chunks) * CHUNK_WORDS, 4 * (first * CHUNK_WORDS + place)
    flipped = int(bits[place].item()) & 0xFFFFFFFF
    of = f"{sum(found):,} of {words:,} words of memory came back changed"
    return [f"{of} (written: {name}; the first at byte {byte:,}, bits 0x{flipped:08X})"]


def _changed(torch: Any, chunk: Any, tensors: Tuple[Any, Any], value: int, number: int) -> Any:
    """The bits that are not as they were written."""
    base, spare = tensors
    if base is None:
        return torch.bitwise_xor(chunk, value, out=spare)
    return torch.bitwise_xor(torch.bitwise_xor(chunk, base, out=spare), _salted(value, number), out=spare)


def _salted(value: int, number: int) -> int:
    """No two chunks hold the same. As a signed number of 32 bits."""
    salt = (number * 0x9E3779B1 ^ value) & 0xFFFFFFFF
    return salt - 2**32 if salt >= 2**31 else salt


def _test_products(bench: Bench) -> None:
    torch = bench.torch
    if bench.cuda:
        torch.cuda.empty_cache()
    left, right, product = _matrices(torch)
    tiles = TILES if bench.cuda else 1
    expected = (product * tiles).float().to(bench.device).view(1, SIDE, 1, SIDE)
    left, right = (one.float().to(bench.device).repeat(tiles, tiles) for one in (left, right))
    counts: List[int] = []
    most = QUICK_ROUNDS if bench.quick or not bench.cuda else MOST_ROUNDS
    while len(counts) < most and (len(counts) < 2 or bench.left_s() > 0):
        result = torch.mm(left, right).view(tiles, SIDE, tiles, SIDE)
        counts.append(int(torch.count_nonzero(result != expected).item()))
    if any(counts):
        of = f"{max(counts):,} of {(SIDE * tiles) ** 2:,} places"
        tries = f"in {sum(count > 0 for count in counts)} of {len(counts)} tries"
        bench.wrong.append(f"the product of two matrices came out wrong in {of} ({tries})")
    bench.said.append(f"{len(counts)} products were exact")
    side = SIDE * tiles if bench.cuda else SIDE // 4  # a processor may have no instructions for these numbers
    for dtype in (torch.float16, torch.bfloat16):
        _test_half(bench, left[:side, :side], right[:side, :side], dtype)


def _matrices(torch: Any) -> Tuple[Any, Any, Any]:
    """Two matrices and their product, exact, by the processor. Raises NotRun if that gets it wrong."""
    places = torch.arange(SIDE * SIDE, dtype=torch.int64)
    left, right = ((_mixed(places, seed) % 17 - 8).view(SIDE, SIDE).double() for seed in (1, 2))
    product = torch.mm(left, right)
    if fingerprint(torch, product) != KNOWN:
        raise NotRun("the processor of this machine, not the GPU, multiplied two matrices wrongly")
    return left, right, product


def _mixed(places: Any, seed: int) -> Any:
    """Numbers without a pattern, the same with every version of torch: nothing here overflows 63 bits."""
    mixed = (places * 2654435761 + seed) % 2**32
    for factor in (1103515245, 747796405):
        mixed = ((mixed ^ (mixed // 2**15)) * factor) % 2**32
    return mixed // 2**8


def fingerprint(torch: Any, product: Any) -> Tuple[int, int]:
    """Return two exact sums over a matrix of whole numbers; see KNOWN."""
    flat = product.to(torch.int64).view(-1)
    places = torch.arange(flat.numel(), dtype=torch.int64) % 9973
    return int(flat.sum().item()), int((flat * places).sum().item())


def _test_half(bench: Bench, left: Any, right: Any, dtype: Any) -> None:
    """The same product twice must be the same in every bit, and near the exact one. In sixteenths: none overflows."""
    torch, name = bench.torch, str(dtype).replace("torch.", "")
    if bench.cuda and dtype is torch.bfloat16 and torch.cuda.get_device_capability()[0] < BFLOAT16_SINCE:
        return
    exact = torch.mm(left, right).div_(256)
    left, right = (one.div(16).to(dtype) for one in (left, right))
    try:
        first, second = torch.mm(left, right), torch.mm(left, right)
    except RuntimeError as error:
        if not any(words in str(error) for words in ("not implemented", "CUBLAS_STATUS_NOT_SUPPORTED")):
            raise
        return
    places = int(torch.count_nonzero(first.view(torch.int16) != second.view(torch.int16)).item())
    if places:
        bench.wrong.append(
            f"the same product in {name} differs between two tries in {places:,} of {first.numel():,} places"
        )
    off, largest = (float(one.abs().max().item()) for one in (first.float() - exact, exact))
    if not off <= largest / 50:  # bfloat16 rounds at 1/256; nan is caught too
        bench.wrong.append(f"the product in {name} is off by {off:.3g}, of {largest:.3g} at the most")


def _test_copies(bench: Bench) -> None:
    torch = bench.torch
    host = bench.host.repeat(1 if bench.quick else COPY_WORDS // CHUNK_WORDS)
    if bench.cuda:
        host = host.pin_memory()
    size_bytes, there_s, back_s = host.numel() * 4, float("inf"), float("inf")
    for _ in range(3):
        began = bench.now()
        there = host.to(bench.device, copy=True)
        arrived = bench.now()
        back = torch.empty_like(host, pin_memory=bench.cuda).copy_(there)
        there_s, back_s = min(there_s, arrived - began), min(back_s, bench.now() - arrived)
        if int(there.sum(dtype=torch.int64).item()) != int(host.sum(dtype=torch.int64).item()):
            bench.wrong.append("what was copied to the GPU is not what arrived there")
        changed = int(torch.count_nonzero(back != host).item())
        if changed:
            bench.wrong.append(f"{changed:,} of {host.numel():,} words changed on the way to the GPU and back")
        if changed or bench.left_s() < -2:
            break
    rates = [size_bytes / max(taken_s, 1e-6) for taken_s in (there_s, back_s)]
    bench.said.append(f"{rates[0] / 1e9:.1f} GB/s there and {rates[1] / 1e9:.1f} GB/s back")


if __name__ == "__main__":
    sys.exit(main())
