"""What the end of a log says: which line counts, which exception, of which rank; whatever the log holds."""

from __future__ import annotations

import re
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.diagnosis.explain import of_log, plan_words
from supervisor.core.diagnosis.matching import Matcher, fixed_words
from supervisor.core.diagnosis.signs import LONGEST, MOST_SIGNS, scan
from supervisor.core.diagnosis.tables import RULES, Rule
from supervisor.core.plain_text import clean_lines

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
KILLED = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. "
FULL = "OSError: [Errno 28] No space left on device"


def frame(epoch: int, batch: int, batches: int = 100) -> str:
    """A frame of the progress bar."""
    return f"{f'{epoch}/300':>11}      2.34G      1.234      2.345      1.111         24        640: {batch}% ━━ {batch}/{batches} 3.2it/s"


def trace(error: str, *sites: tuple[str, int, str], head: str = "Traceback (most recent call last):") -> list[str]:
    """A traceback with frames at these places."""
    frames = [
        line
        for file, line_number, name in sites
        for line in (f'  File "{file}", line {line_number}, in {name}', "    x()")
    ]
    return [head, *frames, error]


def rules_of(lines: list[str]) -> list[str]:
    """The rules of the signs, the best one first."""
    return [sign.rule for sign in scan(lines, RULES).signs]


# ---- which line
def test_the_first_of_two_causes_counts():
    """What comes later follows from it."""
    assert rules_of([frame(1, 5), OOM, KILLED]) == ["cuda-oom", "worker-killed"]
    assert rules_of([frame(1, 5), KILLED, OOM]) == ["worker-killed", "cuda-oom"]


def test_a_sign_tells_line_and_number():
    """Lines count from 1, as an editor counts."""
    (sign,) = scan([frame(1, 5), "", f"  {OOM}"], RULES).signs
    assert (sign.number, sign.line, sign.cause) == (3, OOM, "cuda-oom")


def test_what_the_training_survived_is_no_sign():
    """The training went on for many batches after the line."""
    assert rules_of([frame(1, 5), OOM, frame(1, 50), KILLED]) == ["worker-killed"]


def test_a_repeated_line_counts_after_the_last_progress():
    """The same trouble twice: the one at the end is told."""
    (sign,) = scan([frame(1, 5), OOM, frame(2, 5), OOM, OOM], RULES).signs
    assert sign.number == 4


def test_other_ranks_may_run_on_for_a_batch():
    """A frame of rank 0 that comes after the death of rank 1 is no recovery."""
    assert rules_of([frame(4, 50), OOM, frame(4, 51)]) == ["cuda-oom"]


def test_a_warning_before_the_first_batch_is_survived_too():
    """There was no frame before it, and many come after."""
    assert rules_of([FULL, frame(1, 0), frame(1, 40)]) == []
    assert rules_of([FULL, frame(1, 0)]) == ["disk-full"]


def test_a_training_that_completed_had_no_failure_before():
    """The word of the trainer ends what was before it."""
    lines = [frame(3, 99), KILLED, "3 epochs completed in 0.1 hours."]
    assert rules_of(lines) == []


def test_an_echo_comes_after_any_cause():
    """Even where it stands before it."""
    lines = ["ConnectionResetError: [Errno 104] Connection reset by peer", FULL]
    assert rules_of(lines) == ["disk-full", "connection-reset"]


def test_a_warning_comes_after_an_error():
    """A line that only warns explains an end if nothing else does."""
    lines = ["WARNING ⚠️ No labels found in /x, training may not work correctly.", OOM]
    assert rules_of(lines) == ["cuda-oom", "labels-missing"]


def test_notes_are_no_signs():
    """What explains no end is told beside it."""
    found = scan(
        ["WARNING CUDA out of memory with batch=16. Reducing to batch=8 and retrying (1/3).", frame(1, 50), FULL], RULES
    )
    assert [sign.rule for sign in found.signs] == ["disk-full"]
    assert [sign.rule for sign in found.notes] == ["oom-halved"]


@pytest.mark.parametrize(
    "line",
    [
        "engine/trainer: task=detect, name=CUDA out of memory. Tried to allocate, data=x",
        "train: weights=yolov5s.pt, cfg=, name=Killed, project=No space left on device",
        "Namespace(weights='No space left on device')",
        "+ yolo train name='CUDA error: x'",
        "train: Scanning /data/CUDA error: x/labels... 3 images",
        "Logging results to /srv/No space left on device",
        "       nan_killed/oom",
    ],
)
def test_what_a_person_wrote_is_no_sign(line):
    """Arguments, commands and folders may have any name."""
    found = scan([line], RULES)
    assert (found.signs, found.notes) == ((), ())


def test_the_code_in_a_traceback_is_no_sign():
    """A line of the program that would raise something else was not reached, or is the one that is told below."""
    code = "    raise RuntimeError('CUDA error: unspecified launch failure')"
    lines = ["Traceback (most recent call last):", '  File "/a.py", line 1, in f', code, FULL]
    assert rules_of(lines) == ["disk-full"]
    assert rules_of([code.strip()]) == ["cuda-launch-failed"]


def test_why_no_image_was_left_goes_before_that_none_was_left():
    """Ultralytics leaves out image after image, and then has none; while training goes on, nothing ended."""
    lines = [
        "train: /data/1.jpg: ignoring corrupt image/label: Label class 7 exceeds dataset class count 1. Possible class labels are 0-0",
        "RuntimeError: No valid images found in /data/labels/train.cache.",
    ]
    assert rules_of(lines) == ["label-class-too-high", "labels-missing"]
    assert rules_of([*lines[:1], OOM])[0] == "cuda-oom"
    assert rules_of([*lines[:1], frame(1, 50)]) == []


def test_a_few_signs_are_enough():
    """However much a log says."""
    lines = [rule.sample.strip().splitlines()[-1] for rule in RULES]
    assert len(scan(lines, RULES).signs) == MOST_SIGNS


# ---- validation
def test_memory_of_validation_is_told_by_the_traceback():
    """The same line means something else in the validator."""
    in_training = trace(OOM, ("/s/ultralytics/engine/trainer.py", 4, "_do_train"))
    in_validation = trace(OOM, ("/s/ultralytics/engine/validator.py", 4, "__call__"))
    assert rules_of(in_training) == ["cuda-oom"]
    assert rules_of(in_validation) == ["cuda-oom-validation"]
    assert rules_of([*in_validation, "", OOM]) == ["cuda-oom-validation", "cuda-oom"]


# ---- which exception
def test_error_and_innermost_site():
    """The exception's own line, and where it was raised."""
    found = scan(
        [frame(1, 5), *trace("ValueError: bad", ("/a/train.py", 3, "main"), ("/a/model.py", 44, "forward"))], RULES
    )
    assert (found.error, found.site, found.error_line) == ("ValueError: bad", "/a/model.py:44 in forward", 7)


def test_a_traceback_may_follow_a_frame_on_its_line():
    """A progress bar has no line end."""
    lines = trace("ValueError: bad", ("/a/b.py", 1, "f"), head=frame(1, 5) + "Traceback (most recent call last):")
    assert scan(lines, RULES).site == "/a/b.py:1 in f"


def test_of_chained_exceptions_the_last_counts():
    """That is the one that nobody caught."""
    chain = "During handling of the above exception, another exception occurred:"
    lines = [*trace("KeyError: 'a'", ("/a.py", 1, "f")), "", chain, "", *trace("TypeError: b", ("/b.py", 2, "g"))]
    found = scan(lines, RULES)
    assert (found.error, found.site) == ("TypeError: b", "/b.py:2 in g")


def test_an_exception_of_a_worker_is_the_original_one():
    """The main process repeats it: what was raised in the worker counts."""
    lines = [
        *trace(
            "ValueError: Caught ValueError in DataLoader worker process 3.", ("/torch/dataloader.py", 9, "_next_data")
        ),
        *trace(
            "ValueError: odd image",
            ("/u/base.py", 77, "load_image"),
            head="Original Traceback (most recent call last):",
        ),
    ]
    found = scan(lines, RULES)
    assert (found.error, found.site) == ("ValueError: odd image", "/u/base.py:77 in load_image")


def test_threads_and_ignored_exceptions_are_not_why():
    """Python goes on after those."""
    lines = [
        *trace("ValueError: bad", ("/a.py", 1, "f")),
        "Exception in thread Thread-1:",
        *trace("OSError: pipe", ("/b.py", 2, "g")),
        "Exception ignored in: <function X.__del__>",
        *trace(KILLED, ("/c.py", 3, "h")),
    ]
    found = scan(lines, RULES)
    assert (found.error, found.signs) == ("ValueError: bad", ())


def test_an_exception_that_was_survived_is_none():
    """It was caught and written down."""
    assert scan([frame(1, 5), *trace("ValueError: bad", ("/a.py", 1, "f")), frame(2, 90)], RULES).error == ""


def test_an_echo_is_no_error():
    """A launcher's wrapper or a broken pipe says nothing about the code."""
    assert (
        scan(trace("ConnectionResetError: [Errno 104] Connection reset by peer", ("/a.py", 1, "f")), RULES).error == ""
    )


# ---- ranks
def ranked(rank: int, lines: list[str]) -> list[str]:
    """As torch prefixes the output of a rank."""
    return [f"[rank{rank}]: {line}" for line in lines]


SUMMARY = [
    "Failures:", "[1]:", "  rank      : 0 (local_rank: 0)", "  exitcode  : -9 (pid: 11)",
    "Root Cause (first observed failure):", "[0]:", "  rank      : 1 (local_rank: 1)", "  exitcode  : 1 (pid: 12)", "=====",
]  # fmt: skip


def test_the_rank_that_failed_first_is_the_one():
    """Torchrun names it, and what the others said or got is an echo."""
    lines = [
        *ranked(1, trace("ValueError: bad", ("/one.py", 1, "f"))),
        *ranked(0, trace("torch.distributed.DistBackendError: NCCL error in: x", ("/zero.py", 2, "g"))),
        *SUMMARY,
    ]
    found = scan(lines, RULES)
    assert (found.rank, found.error, found.site) == (1, "ValueError: bad", "/one.py:1 in f")
    assert found.signs == ()
    assert [note.rule for note in found.notes] == ["nccl-error"]


def test_the_root_rank_goes_before_earlier_lines_of_others():
    """Output of ranks is mixed: what torchrun saw first is what counts."""
    lines = [*ranked(0, ["torch.distributed.DistBackendError: NCCL error in: x"]), *ranked(1, [OOM]), *SUMMARY]
    assert rules_of(lines)[0] == "cuda-oom"


def test_without_prefixes_the_first_of_the_launched_counts():
    """Older versions of torch do not say whose a line is."""
    lines = [
        *trace("ValueError: first", ("/one.py", 1, "f")),
        *trace("ValueError: second", ("/two.py", 1, "f")),
        *trace("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ", ("/run.py", 1, "f")),
    ]
    assert scan(lines, RULES).error == "ValueError: first"


def test_a_chain_of_the_first_of_the_launched_is_one_failure():
    """What nobody caught in that rank counts, not what it was caught from."""
    chain = "The above exception was the direct cause of the following exception:"
    lines = [
        *trace("KeyError: 'a'", ("/one.py", 1, "f")), chain, *trace("TypeError: b", ("/two.py", 2, "g")),
        *trace("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ", ("/run.py", 1, "f")),
    ]  # fmt: skip
    found = scan(lines, RULES)
    assert (found.error, found.site) == ("TypeError: b", "/two.py:2 in g")


def test_the_watchdog_names_its_rank():
    """Where no prefix does."""
    (sign,) = scan(["[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)"], RULES).signs
    assert (sign.rule, sign.rank) == ("nccl-timeout", 3)


# ---- users' rules
def test_rules_of_users_come_first():
    """The same line may mean more here than elsewhere."""
    own = Rule(name="own", match="Errno 28", cause="nas-full", remedy="backoff*2", means="the NAS is full")
    found = scan([FULL], (own, *RULES))
    diagnosis = of_log(found, (own, *RULES))
    assert diagnosis.cause.name == "nas-full"
    assert (diagnosis.cause.title, diagnosis.cause.means) == ("nas full", "the NAS is full")
    assert diagnosis.steps[:2] == ("backoff", "backoff")


@pytest.mark.parametrize("pattern", [r"(?i)quota", r"^a.c$", r"\Aabc\Z", r"x*", r"ab(?!d)", r"[Qq]uota|x"])
def test_patterns_without_fixed_words_are_found_too(pattern):
    """What cannot be searched for quickly is searched for slowly."""
    rules = (Rule(name="own", match=f"{pattern}", cause="nan"),)
    for line in ("QUOTA", "abc", "quota", "x", "abd", "abc abd"):
        found = scan(["first", line, "last"], rules)
        numbers = [number for number, one in enumerate(("first", line, "last"), 1) if re.search(pattern, one)]
        assert [sign.number for sign in found.signs] == numbers[:1]


@given(st.sampled_from(RULES), st.text(max_size=30), st.text(max_size=30))
def test_fixed_words_are_in_every_match(rule, before, after):
    """If a pattern matches, one of its words is there."""
    line = before + rule.sample.strip().splitlines()[-1] + after
    if rule.pattern.search(line):
        assert any(word in line for word in fixed_words(rule.match))
        assert Matcher(RULES).suspicious(line) if before == after == "" else True


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("abcd", ("abcd",)),
        (r"ab\.cd|xyz+q", ("ab.cd", "xyz")),
        ("abc?d", ()),
        ("abcde?f", ("abcd",)),
        ("abc*(def)ghi", ("ghi",)),
        ("a{2}bcd", ("bcd",)),
        (r"\d+abc[xyz]de", ("abc",)),
        ("abc|(def)", ()),
        ("(?i)abcd", ()),
        (r"\x41bcd", ()),
    ],
)
def test_fixed_words(pattern, words):
    """Only what every match must hold."""
    assert fixed_words(pattern) == words


# ---- any log
@given(st.lists(st.binary(max_size=300), max_size=40))
def test_nothing_in_a_log_raises(pieces):
    """Random bytes between lines that mean something."""
    data = b"\n".join(
        x for piece in pieces for x in (piece, b"Traceback (most recent call last):", OOM.encode(), b"Failures:")
    )
    lines = clean_lines(data)
    assert scan(lines, RULES).lines == len(lines)


@given(
    st.lists(
        st.sampled_from(
            [frame(1, 5), frame(2, 90), OOM, FULL, *SUMMARY, *trace(KILLED, ("/a", 1, "f")), "[rank1]: x", "%"]
        ),
        max_size=60,
    )
)
def test_no_order_of_lines_raises(lines):
    """Tracebacks that never end, summaries without a beginning."""
    found = scan(lines, RULES)
    assert all(0 < sign.number <= len(lines) for sign in (*found.signs, *found.notes))


def test_endless_lines_are_cut():
    """Beginning and end of a line are looked at, not a megabyte between."""
    line = "x" * 5_000_000
    assert scan([line, line], RULES).signs == ()
    (sign,) = scan([line + OOM], RULES).signs
    assert len(sign.line) <= LONGEST


class Line(str):
    """A line that can be watched."""

    __slots__ = ("__weakref__",)


def test_a_log_is_never_held_as_a_whole():
    """However long it is, only some hundred lines of it are in memory at a time."""
    alive, most = weakref.WeakSet(), 0

    def lines():
        nonlocal most
        for number in range(5000):
            line = Line(f"{number} some line of a training that goes on and says nothing")
            alive.add(line)
            most = max(most, len(alive))
            yield line

    assert scan(lines(), RULES).lines == 5000
    assert 0 < most < 1000


def test_a_plan_is_told_in_words():
    """Equal steps are counted."""
    assert (
        plan_words(("wait-disk", "wait-disk", "hold"))
        == "wait until the disk has space (up to 2 times); then hold it for a person"
    )


@pytest.mark.parametrize(
    "line",
    [
        "WARNING ⚠️ Download failure for https://ultralytics.com/assets/Arial.ttf. Environment may be offline.",
        "wandb: Network error (ConnectTimeout), entering retry loop.",
        "wandb: ERROR Error while calling W&B API: deadline exceeded",
        "WARNING ⚠️ requirements: Ultralytics requirement ['lap'] not found, AutoUpdate disabled by YOLO_AUTOINSTALL=False",
        "WARNING retrying after HTTPSConnectionPool(host='github.com', port=443): Read timed out.",
        "E1122 program.py:300] TensorBoard could not bind to port 6006, it was already in use",
        "OSError: [Errno 98] Address already in use",
    ],
)
def test_what_worries_and_ends_nothing_is_no_cause(line):
    """With an error of the training's own code behind it, or with nothing at all, such a line names no cause."""
    own = ["Traceback (most recent call last):", '  File "/a.py", line 1, in f', "    g()", "ValueError: own"]
    diagnosis = of_log(scan([line, *own], RULES), RULES)
    assert diagnosis.cause.name == "code-error"
    assert "ValueError: own" in diagnosis.seen
    assert scan([line], RULES).signs == ()
