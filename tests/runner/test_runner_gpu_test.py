"""The self-test of a GPU: one wrong bit, word or product is found, and what is not the GPU's fault is not held against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from runner_lab import RUNNER

from supervisor.runner import gpu_test

PROGRAM = RUNNER / "gpu_test.py"
FAULTS = Path(__file__).with_name("gpu_test_faults.py")
LIMIT_S = 120
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # more would only wait for each other while other tests run


def run_test(python, *options):
    """Run the self-test as a program: exit code, what it printed, the steps it named."""
    done = subprocess.run(
        [python, PROGRAM, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=ONE_THREAD,
    )
    steps = [line.removeprefix("step: ") for line in done.stderr.splitlines() if line.startswith("step: ")]
    return done.returncode, json.loads(done.stdout), steps


@pytest.fixture(scope="module")
def cases(train_python):
    """What the self-test says on real torch, healthy and with each fault."""
    done = subprocess.run(
        [train_python, FAULTS, PROGRAM], capture_output=True, text=True, timeout=LIMIT_S, check=False, env=ONE_THREAD
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {case["name"]: case for case in map(json.loads, done.stdout.splitlines())}


def test_a_healthy_device_passes_and_tells_its_figures(train_python):
    """One JSON object, exit code 0, every step named as it begins, and what was tested how much in words."""
    code, found, steps = run_test(train_python, "--device", "cpu", "--quick", "--memory-bytes", "100000000")
    assert (code, found["ok"], found["ran"]) == (0, True, True)
    for part in (
        "opened in ",
        "; 0.06 GiB of memory held 2 patterns; ",
        "; 3 products were exact; ",
        " GB/s there and ",
    ):
        assert part in found["text"]
    assert steps == ["importing torch", "opening the GPU", "writing and reading its memory", "multiplying matrices",
                     "copying to the GPU and back"]  # fmt: skip


def test_one_flipped_bit_is_found_and_placed(cases):
    """One bit of 64 MiB: how many words, which pattern, where, and which bit."""
    assert cases["healthy"]["code"] == 0
    assert cases["one bit"]["code"] == 1
    assert cases["one bit"]["text"] == (
        "1 of 524,288 words of memory came back changed (written: 0x55555555; the first at byte 1,097,956, bits 0x00000400)"
    )


def test_a_bit_that_sticks_is_found_with_every_pattern_that_has_it_the_other_way(cases):
    """It is told once, with the number of patterns."""
    assert cases["stuck bit"]["code"] == 1
    assert "at byte 28, bits 0x00000008); so it was with 2 more patterns" in cases["stuck bit"]["text"]


def test_a_wrong_product_is_counted_place_by_place(cases):
    """Three elements of a million, each off by one."""
    assert cases["product"]["code"] == 1
    assert cases["product"]["text"].startswith(
        "the product of two matrices came out wrong in 3 of 1,048,576 places (in 3 of 3 tries)"
    )


def test_half_precision_must_come_out_the_same_twice_and_near_the_truth(cases):
    """The last bit of one element, which no tolerance would see; and a product that is the same each time and wrong."""
    assert (cases["differs"]["code"], cases["far off"]["code"]) == (1, 1)
    assert "the same product in bfloat16 differs between two tries in 1 of " in cases["differs"]["text"]
    assert "the product in bfloat16 is off by " in cases["far off"]["text"]


def test_a_word_that_changes_on_the_way_is_found(cases):
    """What arrives on the GPU, and what comes back."""
    assert cases["copy"]["code"] == 1
    assert "is not what arrived there; 1 of 524,288 words changed" in cases["copy"]["text"]


def test_an_error_of_the_driver_is_a_failure_with_its_words(cases):
    """CUDA's own message, in one line, and what was done at that moment."""
    assert cases["ecc"]["code"] == 1
    assert cases["ecc"]["text"] == (
        "an error while multiplying matrices: RuntimeError: CUDA error: uncorrectable ECC error encountered"
    )


def test_a_product_that_a_gpu_does_not_have_is_left_out(cases):
    """An older GPU has none in bfloat16, whatever torch says: that is no fault of it, and the rest is tested."""
    assert (cases["no half"]["code"], cases["cublas"]["code"]) == (0, 1)


@pytest.mark.parametrize(("capability", "asked"), [((7, 5), False), ((8, 0), True)])
def test_bfloat16_is_asked_of_gpus_that_have_it(capability, asked):
    """From compute capability 8.0 on; torch itself says yes for older ones, which only imitate it."""
    used = []
    torch = SimpleNamespace(bfloat16="torch.bfloat16", cuda=SimpleNamespace(get_device_capability=lambda: capability))
    torch.mm = lambda *_: used.append(1) or (_ for _ in ()).throw(KeyError)
    bench = SimpleNamespace(torch=torch, cuda=True, wrong=[])
    with pytest.raises(KeyError) if asked else nullcontext():
        gpu_test._test_half(bench, None, None, torch.bfloat16)
    assert bool(used) is asked


def test_an_old_torch_tests_less_memory():
    """Before 1.11 it does not tell what is free: a tenth of all."""
    facts = SimpleNamespace(total_memory=10 * gpu_test.GIB)
    old = SimpleNamespace(get_device_properties=lambda _: facts)
    assert gpu_test._free_bytes(old) == gpu_test.GIB
    assert gpu_test._free_bytes(SimpleNamespace(mem_get_info=lambda: (5, 9))) == 5


def test_a_limit_of_no_cores_is_no_hindrance(monkeypatch, capfd):
    """A service may forbid cores altogether, and only root may raise that again: the test is made all the same."""

    def refuse(_which, _limits):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(gpu_test.resource, "setrlimit", refuse)
    monkeypatch.setattr(gpu_test, "_answer", lambda *_: 3)
    kept = os.dup(1)
    try:
        assert gpu_test.main([]) == 3
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@pytest.mark.parametrize("case", ["processor", "no memory", "bug", "cublas memory", "cublas start", "cublas arch"])
def test_what_is_not_the_gpus_fault_is_no_failure(cases, case):
    """A processor that multiplies wrongly, memory that somebody else has, a mistake of ours: exit code 3, not run."""
    assert (cases[case]["code"], cases[case]["ok"], cases[case]["ran"]) == (3, False, False)
    assert cases[case]["text"]


def test_what_was_found_counts_even_if_the_rest_cannot_be_tested(cases):
    """A flipped bit is not forgotten because there was no memory for the next step."""
    assert (cases["both"]["code"], cases["both"]["ran"]) == (1, True)
    assert cases["both"]["text"].startswith("1 of 524,288 words")


def test_without_torch_it_is_not_run():
    """An interpreter that has no torch says so: exit code 3."""
    code, found, _ = run_test(sys.executable)
    assert (code, found["ok"], found["ran"]) == (3, False, False)
    assert found["text"].startswith("torch cannot be imported in ")


def test_a_torch_without_cuda_is_not_run(train_python):
    """A build for processors only; where there is CUDA, the GPU that is asked for is not the one that is there."""
    code, found, _ = run_test(train_python, "--uuid", "GPU-00000000-0000-0000-0000-000000000000")
    assert (code, found["ok"], found["ran"]) == (3, False, False)
    assert found["text"]


def test_it_ends_with_whoever_started_it():
    """With --tied the end of standard input ends it at once, without an answer: no GPU stays taken by nobody."""
    reading, writing = os.pipe()
    hang = "import sys, time; sys.path.insert(0, sys.argv.pop(1)); import gpu_test; gpu_test._answer = lambda *_: time.sleep(60); gpu_test.main()"
    child = subprocess.Popen([sys.executable, "-c", hang, RUNNER, "--tied"], stdin=reading)
    os.close(reading)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)  # it waits as long as somebody is there
        os.close(writing)
        assert child.wait(30) == 3
    finally:
        child.kill()
        child.wait()


def cuda(count=1, uuid="0a1b", name="NVIDIA L40S"):
    """What torch tells of the GPUs that it sees."""
    facts = SimpleNamespace(name=name, uuid=uuid)
    return SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: count, get_device_properties=lambda _: facts))


def test_only_the_gpu_that_is_asked_for_is_tested():
    """None, several or another one: not run. A torch that does not tell UUIDs is believed."""
    assert gpu_test._identified(cuda(), "GPU-0A1B") == "NVIDIA L40S"
    assert gpu_test._identified(cuda(uuid=""), "GPU-0A1B") == "NVIDIA L40S"
    for wrong in (cuda(count=0), cuda(count=2), cuda(uuid="ffff")):
        with pytest.raises(gpu_test.NotRun):
            gpu_test._identified(wrong, "GPU-0A1B")
