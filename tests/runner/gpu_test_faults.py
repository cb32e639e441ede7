"""Run the self-test of a GPU on the processor, healthy and with one fault after the other: one JSON line for each.

``python gpu_test_faults.py GPU_TEST.PY``, with an interpreter that has torch. The faults are put into torch's own
operations, so the self-test is the very program that tests a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import sys

import torch

FILL, XOR, MM, TO = torch.Tensor.fill_, torch.bitwise_xor, torch.mm, torch.Tensor.to
spec = importlib.util.spec_from_file_location("gpu_test", sys.argv[1])
gpu_test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_test)
gpu_test.CHUNK_WORDS, gpu_test.COPY_WORDS = 2**18, 2**19  # a processor is slow


def restore():
    """Make torch healthy again."""
    torch.Tensor.fill_, torch.bitwise_xor, torch.mm, torch.Tensor.to = FILL, XOR, MM, TO


def flip_one_bit_once():
    """One bit of the second chunk flips after one pattern was written."""
    seen = []

    def fill(tensor, value):
        FILL(tensor, value)
        if value == 0x55555555:
            seen.append(tensor)
            if len(seen) == 2:
                tensor[12345] ^= 0x400
        return tensor

    torch.Tensor.fill_ = fill


def stick_a_bit():
    """One bit of the memory that is written first is always set."""
    places = []

    def stick(tensor):
        places.append(tensor.data_ptr())
        if tensor.data_ptr() == places[0]:
            tensor[7] |= 8
        return tensor

    torch.Tensor.fill_ = lambda tensor, value: stick(FILL(tensor, value))
    torch.bitwise_xor = lambda left, right, out: stick(XOR(left, right, out=out))


def spoil_products(dtype, spoil):
    """The products of one type come out as `spoil` leaves them."""

    def product(left, right):
        result = MM(left, right)
        if result.dtype is dtype:
            spoil(result)
        return result

    torch.mm = product


def three_places():
    """A product in float32 is wrong in three places, by one."""

    def spoil(result):
        if result.numel() == 1024**2:
            result.view(-1)[[5, 77, 1048575]] += 1

    spoil_products(torch.float32, spoil)


def differs_between_tries():
    """The last bit of one element differs from one product to the next."""
    tries = []

    def spoil(result):
        tries.append(result)
        result.view(torch.int16)[3, 4] ^= len(tries) % 2

    spoil_products(torch.bfloat16, spoil)


def far_off():
    """A product in bfloat16 is the same each time, and wrong."""
    spoil_products(torch.bfloat16, lambda result: result.mul_(1.5))


def processor_wrong():
    """The processor gets the product wrong by which the GPU's is judged."""
    spoil_products(torch.float64, lambda result: result.view(-1)[9].add_(1))


def spoil_copies():
    """A word changes on the way to the GPU."""

    def to(tensor, *words, copy=False, **more):
        result = TO(tensor, *words, copy=copy, **more)
        if copy:
            result[100] += 1
        return result

    torch.Tensor.to = to


def fail_with(text):
    """Multiplying raises what CUDA would."""

    def product(_left, _right):
        raise RuntimeError(text)

    torch.mm = product


def broken_and_hindered():
    """A bit flips, and later there is no memory for the rest of the test."""
    flip_one_bit_once()
    fail_with("CUDA out of memory.")


def no_half():
    """There is no product of these numbers for this GPU."""

    def product(left, right):
        if left.dtype is torch.bfloat16:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx( handle, opa, …)`")
        return MM(left, right)

    torch.mm = product


CASES = {
    "no half": no_half,
    "cublas memory": lambda: fail_with("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cublas start": lambda: fail_with("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "cublas arch": lambda: fail_with("CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling `cublasSgemm( handle, …)`"),
    "cublas": lambda: fail_with("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, …)`"),
    "healthy": lambda: None,
    "one bit": flip_one_bit_once,
    "stuck bit": stick_a_bit,
    "product": three_places,
    "differs": differs_between_tries,
    "far off": far_off,
    "processor": processor_wrong,
    "copy": spoil_copies,
    "ecc": lambda: fail_with("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be …"),
    "no memory": lambda: fail_with("CUDA out of memory. Tried to allocate 64.00 MiB."),
    "both": broken_and_hindered,
    "bug": lambda: fail_with("value cannot be converted to type int without overflow"),
}

for name, fault in CASES.items():
    fault()
    found = {"text": ""}
    options = gpu_test._options(["--device", "cpu", "--memory-bytes", str(2 * 1024**2)])
    code = gpu_test._answer(found, options)
    restore()
    print(json.dumps({"name": name, "code": code, **found}), flush=True)
