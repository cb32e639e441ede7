"""GPUs as plain data: how each one stands, what is missing is never 0, and which GPU a person means."""

from __future__ import annotations

import json

import msgspec
import pytest

from supervisor.core import words
from supervisor.core.gpus import lookup, views
from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.model import (
    Drain,
    Driver,
    Finding,
    Gpu,
    GpuFacts,
    GpuPolicy,
    Holder,
    Noted,
    Passport,
    Quarantine,
    XidNote,
)
from supervisor.core.gpus.readings import ABSENT, Failed, Reading, Stale
from supervisor.core.gpus.standing import STATES, standing
from supervisor.core.model import Attempt, Job, Phase, Policy, Run, World

NOW = 1_800_000_000.0


def gpu(index=3, **fields):
    known = GpuFacts(
        uuid=f"GPU-{index}f2e3d4c-aaaa", index=index, bus_id=f"00000000:{0x3B + index:02X}:00.0", name="NVIDIA L40S"
    )
    return Gpu(uuid=known.uuid, facts=known, **fields)


def world(*gpus, state="ok", watch=True, gpu_count=0, runs=(), **policy):
    rules = Policy(gpu=GpuPolicy(watch=watch, **policy), gpu_count=gpu_count)
    driver = Driver(state=state, version="580.65.06")
    return World(gpus={one.uuid: one for one in gpus}, policy=rules, driver=driver, live={run.id: run for run in runs})


def run(name="truck", phase=Phase.RUNNING, on=(), **fields):
    attempt = (
        Attempt(number=2, token=1, gpu_ids=tuple(one.uuid for one in on), launches=1, started_at=NOW - 60)
        if on
        else None
    )
    job = Job(name=name, revision="aa", gpus=len(on) or 1)
    return Run(id=f"{name}@1", job=job, phase=phase, created_at=NOW, phase_since=NOW - 90, attempt=attempt, **fields)


def found(kind, text="words of the judge"):
    return {f"{kind}/nvml": Finding(kind=kind, source="nvml", text=text, since=NOW - 5)}


# ---- one word
@pytest.mark.parametrize(
    ("fields", "state", "why"),
    [
        ({}, "free", ""),
        ({"holders": (Holder(pid=4242, user="alice", used_bytes=18 * 1024**3),)}, "held", "pid 4242 of alice holds 18 GiB"),
        ({"not_before": NOW + 5, "not_before_reason": "memory is not free yet"}, "resting", "memory is not free yet"),
        ({"drain": Drain(by="bob (uid 1000) via CLI", since=NOW - 60, until_at=NOW + 7200)}, "drained", "by bob, 1 min ago, for another 2 h"),
        ({"drain": Drain(by="bob", since=NOW - 60, until_at=NOW - 1)}, "free", ""),
        ({"quarantine": Quarantine(reason="Xid 13", since=NOW - 60)}, "quarantined", "Xid 13"),
        ({"quarantine": Quarantine(reason="Xid 13", since=NOW), "test_key": "k"}, "testing", "Xid 13"),
        ({"findings": found("too-hot")}, "hot", "words of the judge"),
        ({"findings": found("throttled")}, "hot", "words of the judge"),
        ({"findings": found("unknown-error")}, "unreadable", "words of the judge"),
        ({"findings": found("ecc-uncorrected")}, "failing", "words of the judge"),
        ({"findings": found("reset-required")}, "reset-needed", "words of the judge"),
        ({"findings": found("recovery-reboot")}, "reboot-needed", "words of the judge"),
        ({"findings": found("unresponsive")}, "unresponsive", "words of the judge"),
        ({"findings": found("lost")}, "lost", "words of the judge"),
        ({"present": False}, "missing", "the driver does not list it any more"),
        ({"present": False, "findings": found("lost", "it went")}, "lost", "it went"),
    ],
)  # fmt: skip
def test_each_state_has_its_word_and_its_reason(fields, state, why):
    """A GPU stands in one word, with the reason behind it."""
    one = gpu(**fields)
    stands = standing(one, world(one), NOW)
    assert stands.state == state
    assert why in stands.why
    assert bool(stands.why) is bool(why)


def test_the_worst_of_several_counts():
    """Lost is worse than quarantine, quarantine worse than hot, hot worse than drained."""
    all_of_it = {
        "findings": {**found("too-hot"), **found("lost")},
        "quarantine": Quarantine(reason="Xid 79", since=NOW),
        "drain": Drain(by="bob", since=NOW),
    }
    states = []
    for gone in ({}, {"findings": found("too-hot")}, {"quarantine": None}, {"findings": {}}, {"drain": None}):
        all_of_it |= gone
        states.append(standing(gpu(**all_of_it), world(gpu(**all_of_it)), NOW).state)
    assert states == ["lost", "quarantined", "hot", "drained", "free"]


@pytest.mark.parametrize("kind", [kind for kind, row in KINDS.items() if row.blocks])
def test_what_blocks_a_gpu_is_never_called_free(kind):
    """Every finding that keeps trainings away shows in the state, and says what a person can do."""
    stands = standing(gpu(findings=found(kind)), world(gpu(findings=found(kind))), NOW)
    assert stands.state not in {"free", "busy"}
    assert stands.state in STATES
    assert stands.todo
    assert "{" not in stands.todo


def test_a_finding_that_does_not_block_leaves_a_gpu_free():
    """A note is no reason to call a GPU anything else."""
    one = gpu(findings=found("hot"))
    assert standing(one, world(one), NOW).state == "free"


def test_a_gpu_in_use_is_busy_and_names_the_run():
    """Who has it is the reason; a drain shows as draining while it goes on."""
    one = gpu()
    mine = run(on=(one,))
    stands = standing(one, world(one, runs=(mine,)), NOW)
    assert (stands.state, stands.why, stands.todo) == ("busy", "truck", "")
    drained = gpu(drain=Drain(by="bob", since=NOW))
    assert standing(drained, world(drained, runs=(mine,)), NOW).state == "draining"


def test_others_are_only_told_where_they_are_respected():
    """With foreign = ignore a GPU with others on it is free."""
    one = gpu(holders=(Holder(pid=1),))
    assert standing(one, world(one, foreign="ignore"), NOW).state == "free"


@pytest.mark.parametrize(
    ("needs", "todo"),
    [
        ("test", "gpu release 3"),
        ("reset", "--gpu-reset -i GPU-3f2e3d4c-aaaa"),
        ("reboot", "sudo systemctl reboot"),
        ("person", "gpu bundle 3"),
    ],
)
def test_a_quarantine_says_how_it_ends(needs, todo):
    """What it needs, the last test and the next one, and the command."""
    held = Quarantine(
        reason="Xid 48", since=NOW - 7200, needs=needs, tests=2, result="wrong sum", next_test_at=NOW + 600
    )
    stands = standing(gpu(quarantine=held), world(gpu(quarantine=held)), NOW)
    assert todo in stands.todo
    for part in ("Xid 48", "2 h ago", "test 2: wrong sum", "in 10 min"):
        assert part in stands.why


# ---- values
def cells(reading, **fields):
    one = gpu(**fields)
    return views.values_view(one, reading, NOW)


def test_what_is_missing_is_never_zero():
    """A number, no such value, an error, an old value and one that nobody read are five different things."""
    values = {
        "temperature_c": 61,
        "margin_c": ABSENT,
        "power_w": Failed(code=999, name="UNKNOWN"),
        "gpu_utilization": Stale(age_s=42.0),
    }
    shown = cells(Reading(gpu="x", at=NOW - 2, values=values))
    assert shown["temperature_c"] == {"value": 61}
    assert shown["margin_c"] == {"absent": True}
    assert shown["power_w"] == {"error": "UNKNOWN"}
    assert shown["gpu_utilization"] == {"stale_s": 42}
    assert shown["ecc_corrected"] == {"unknown": True}
    assert not [name for name, cell in shown.items() if cell.get("value") == 0]


def test_an_old_reading_keeps_its_values_and_tells_their_age():
    """30 s is six rounds of the quick tier: what is older is not shown as if it were new."""
    reading = Reading(gpu="x", at=NOW, values={"temperature_c": 61})
    one = gpu()
    assert views.values_view(one, reading, NOW + 30)["temperature_c"] == {"value": 61}
    assert views.values_view(one, reading, NOW + 42)["temperature_c"] == {"stale_s": 42, "value": 61}


@pytest.mark.parametrize(
    ("failed", "text"),
    [(Failed(15, "GPU_IS_LOST"), "GPU_IS_LOST"), (Failed(16), "RESET_REQUIRED"), (Failed(77), "NVML 77")],
)
def test_a_gpu_that_cannot_be_read_has_that_error_everywhere(failed, text):
    """The error of the GPU as a whole stands in every value; that of its memory is known all the same."""
    shown = cells(Reading(gpu="x", at=NOW, error=failed, values={"ecc_corrected": 3, "power_w": Stale(5.0)}))
    assert {cell["error"] for cell in shown.values()} == {text}


def test_without_a_reading_the_size_of_the_memory_is_known():
    """It is part of who the GPU is."""
    known = gpu()
    known = msgspec.structs.replace(known, facts=msgspec.structs.replace(known.facts, memory_bytes=48))
    shown = views.values_view(known, None, NOW)
    assert shown["memory_total_bytes"] == {"value": 48}
    assert shown["memory_used_bytes"] == {"unknown": True}


@pytest.mark.parametrize(
    ("bits", "told"),
    [
        (0, []),
        (1, []),
        (0x4, ["power limit"]),
        (0x48, ["hardware slowdown", "heat, slowed by the hardware"]),
        (0x1000, ["reason 0x1000"]),
    ],
)
def test_throttling_is_told_in_words(bits, told):
    """Each bit has its words, idle is no reason, and a bit of a newer driver is shown as it is."""
    assert views.throttle_words(bits) == told
    shown = cells(Reading(gpu="x", at=NOW, values={"clocks_event_reasons": bits}))
    assert shown["throttle"] == {"value": told}
    assert "clocks_event_reasons" not in shown


# ---- the list
def test_the_summary_counts_what_may_be_used_and_names_the_others():
    """A GPU that one of our trainings has counts as usable."""
    gpus = [gpu(index) for index in range(7)] + [gpu(7, findings=found("lost"))]
    there = world(*gpus, runs=(run(on=gpus[:2]),))
    assert views.summary(there, NOW) == "7 of 8 usable (GPU 7 is lost)"
    assert views.summary(world(), NOW) == ""
    assert views.summary(world(*gpus, state="version-mismatch"), NOW).startswith("0 of 8 usable: ")


def test_without_a_probe_gpus_are_rows_by_index():
    """Where nobody watches they are given out by index: no UUID is made up, and the reason is told."""
    view = views.gpus_view(world(state="no-library", gpu_count=2), {}, NOW)
    assert [(row["index"], row["uuid"], row["state"]) for row in view["gpus"]] == [(0, None, "free"), (1, None, "free")]
    assert view["watched"] is False
    assert "library is not found" in view["summary"]
    assert views.gpus_view(world(watch=False, gpu_count=1), {}, NOW)["driver"]["state"] == "off"


@pytest.mark.parametrize(
    "state",
    [
        "starting",
        "none",
        "no-driver",
        "no-library",
        "old-binding",
        "version-mismatch",
        "no-permission",
        "error",
        "crashed",
        "unresponsive",
        "off",
        "of-a-newer-version",
    ],
)
def test_every_state_of_the_driver_has_words(state):
    """No code without its meaning."""
    assert len(views.driver_view(world(state=state))["words"]) > 10


def test_a_replaced_gpu_is_not_listed():
    """Another one is in its slot: it is no missing GPU, but its record can be shown by its UUID."""
    old = msgspec.structs.replace(gpu(3, present=False), uuid="GPU-01d")
    there = world(gpu(3), old)
    assert [row["uuid"] for row in views.gpus_view(there, {}, NOW)["gpus"]] == [gpu(3).uuid]
    assert views.gpu_view(there, "GPU-01d", {}, NOW)["state"] == "missing"
    assert [row["state"] for row in views.gpus_view(world(old), {}, NOW)["gpus"]] == ["missing"]


def test_the_queue_tells_who_waits_for_what():
    """The first one first; runs that wait for something else are not in it."""
    waits = {"phase": Phase.QUEUED}
    later = run("bike", waiting_for="GPU: GPU 3 is in use: pid 4242 of alice holds 18 GiB", **waits)
    first = run("bus", waiting_for="GPU", priority=5, **waits)
    there = world(gpu(), runs=(later, first, run("slot", waiting_for="slot", **waits)))
    queue = views.gpus_view(there, {}, NOW)["queue"]
    assert [(one["name"], one["text"]) for one in queue] == [
        ("bus", "free GPUs"),
        ("bike", "GPU 3: pid 4242 of alice holds 18 GiB"),
    ]


@pytest.mark.parametrize(
    ("waiting_for", "text"),
    [
        ("GPU", "free GPUs"),
        ("GPU: GPU 3: pid 4242 of alice holds 18 GiB", "GPU 3: pid 4242 of alice holds 18 GiB"),
        (
            "GPU: GPU 3 is in quarantine: Xid 79; GPU 4 is lost",
            "a free GPU (GPU 3 is in quarantine: Xid 79; GPU 4 is lost)",
        ),
        ("GPU: it wants 4, and 2 fit", "a free GPU (it wants 4, and 2 fit)"),
    ],
)
def test_a_wait_for_gpus_reads_as_a_sentence(waiting_for, text):
    """`waits for …`, with the words of whoever found out."""
    assert words.waiting(waiting_for) == text


def test_the_view_of_one_gpu_has_its_record():
    """The passport with every Xid by its name, attempts, signs and links by index; all of it is JSON."""
    record = Passport(attempts=12, busy_s=3600.0, xids={"79": 1, "13": 2}, notes=(Noted(at=NOW, what="lost"),))
    one = gpu(passport=record, xids=(XidNote(xid=79, at=NOW, run="truck@1", attempt=1),))
    there = world(one, runs=(run(on=(one,)),))
    view = views.gpu_view(there, one.uuid, {}, NOW)
    assert view["label"] == "GPU 3 (NVIDIA L40S, 3e:00.0)"
    assert [(row["xid"], row["count"]) for row in view["passport"]["xids"]] == [(13, 2), (79, 1)]
    assert all(row["title"] for row in view["passport"]["xids"])
    assert [(row["run"], row["attempt"]) for row in view["attempts"]] == [("truck@1", 2), ("truck@1", 1)]
    assert view["leases"][0]["since_at"] == NOW - 60
    assert json.loads(msgspec.json.encode(view))["version"] == 1


# ---- which one is meant
GPUS = [gpu(index) for index in range(4)]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("3", 3),
        ("GPU-3f2e3d4c-aaaa", 3),
        ("GPU-3f", 3),
        ("gpu-3F", 3),
        ("3f2e", 3),
        ("3e:00.0", 3),
        ("3E:00", 3),
        ("0000:3e:00.0", 3),
        ("00000000:3E:00.0", 3),
    ],
)
def test_a_gpu_is_named_in_many_ways(name, index):
    """Index, UUID, the beginning of one with or without GPU-, and the bus id in every spelling."""
    assert [one.index for one in lookup.matches(GPUS, name)] == [index]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("9", "there is no GPU 9; there are GPUs 0 to 3"),
        ("GPU-", "GPU- may mean GPU-0f2e3d4c-aaaa or GPU-1f2e3d4c-aaaa or GPU-2f2e3d4c-aaaa or others; give more"),
        ("GPU-3f2e3d4c-aaab", "did you mean GPU-3f2e3d4c-aaaa"),
        ("", "there is no GPU"),
        ("ff:00.0", "there is no GPU ff:00.0"),
    ],
)
def test_a_name_that_means_no_gpu_is_answered_with_those_that_are_there(name, text):
    """None and several are both told, with what looks like it."""
    assert len(lookup.matches(GPUS, name)) != 1
    assert text in lookup.no_such_gpu(GPUS, name)


def test_a_gpu_that_is_there_comes_before_one_that_is_gone():
    """After an exchange an index means the new card; the old one is found by its UUID."""
    old = msgspec.structs.replace(gpu(3, present=False), uuid="GPU-01d")
    assert [one.uuid for one in lookup.matches([old, gpu(3)], "3")] == [gpu(3).uuid]
    assert [one.uuid for one in lookup.matches([old, gpu(3)], "GPU-01d")] == ["GPU-01d"]
    assert [one.uuid for one in lookup.matches([old], "3")] == ["GPU-01d"]


# ---- events in words
@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("GpusSeen", {"state": "ok", "driver": "580.65", "gpus": [{"name": "L40S"}, {"name": "L40S"}]}, "GPUs were found (driver 580.65): 2 x L40S"),
        ("GpusSeen", {"state": "version-mismatch", "text": "580 and 570"}, "the driver was upgraded while it was in use: 580 and 570"),
        ("GpusSeen", {"state": "of-later"}, "the driver is of-later"),
        ("GpuFound", {"gpu": "GPU-1f2e3d4c-a", "finding": "lost", "text": "gone", "source": "sysfs"}, "GPU-1f2e3d4c is lost: gone (told by sysfs)"),
        ("GpuFound", {"gpu": "GPU-1", "finding": "hot", "open": False}, "over: GPU-1 is hot"),
        ("GpuFound", {"gpu": "GPU-1", "finding": "of-later"}, "GPU-1 has of-later (told by nvml)"),
        ("GpuHeld", {"gpu": "GPU-1", "holders": [{"pid": 4, "user": "al", "command": "x", "used_bytes": 1024**3}]}, "others are on GPU-1: pid 4 of al (x, 1.0 GiB)"),
        ("GpuHeld", {"gpu": "GPU-1"}, "nobody else is on GPU-1 any more"),
        ("XidSeen", {"xid": 79, "gpu": "GPU-1", "text": "79, it fell", "run": "truck@1", "attempt": 2}, "Xid 79 on GPU-1 in truck@1 attempt 2: it fell"),
        ("XidSeen", {"xid": 13, "bus_id": "0000:3b:00.0", "text": "t", "pid": 7, "process": "py", "old": True}, "Xid 13 on the GPU at 3b:00.0 in process 7 (py), before the supervisor looked: t"),
        ("KernelSaid", {"what": "oom", "text": "Killed process 7"}, "the kernel ended a process for want of memory: Killed process 7"),
        ("KernelSaid", {"what": "io-error", "device": "sda", "text": "t"}, "a disk cannot be read or written (sda): t"),
        ("GpuTested", {"gpu": "GPU-1", "ok": True, "text": "3 s"}, "GPU-1 passed its self-test: 3 s"),
        ("GpuTested", {"gpu": "GPU-1", "ok": False, "ran": False, "text": "no torch"}, "GPU-1 could not be tested: no torch"),
        ("GpuTreated", {"gpu": "GPU-1", "what": "reset", "ok": True}, "GPU-1 was reset"),
        ("GpuTreated", {"gpu": "GPU-1", "what": "reset", "ok": False, "text": "in use"}, "reset of GPU-1 did not work: in use"),
        ("GpuOrdered", {"gpu": "GPU-1", "what": "drain", "by": "bob", "at": 10.0, "until_at": 7210.0, "reason": "fan"}, "bob wants nothing new on GPU-1 for 2 h: fan"),
        ("GpuOrdered", {"gpu": "GPU-1", "what": "release", "by": "bob"}, "bob released GPU-1"),
    ],
)  # fmt: skip
def test_every_event_is_told_in_a_sentence(kind, body, text):
    """Also with fields missing, and with values of a newer version."""
    assert words.sentence(kind, body) == text
    assert words.sentence(kind, {})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("gpu/GPU-1/test-5", "test the GPU"),
        ("gpu/GPU-1/reset-5", "reset the GPU"),
        ("gpu/GPU-1/reboot-5", "restart the machine"),
        ("gpu/GPU-1/power-5", "set the GPU's power limit"),
    ],
)
def test_actions_about_gpus_are_told_in_words(key, text):
    """What an event led to is read from the key of its action."""
    assert words.action(key) == text
