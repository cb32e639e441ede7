"""The keys about GPUs: [gpu] of the configuration, `gpus` and `gpu` of a job, and what of it can ever be met."""

from __future__ import annotations

import msgspec
import pytest
from check_machine import Machine, accepted, action, refused

from supervisor import config, gpu_config, gpu_watch, jobspec
from supervisor.cli.plan import device_words, plan
from supervisor.config import Defaults
from supervisor.core.gpus import limits, model
from supervisor.core.gpus.model import Driver, Gpu, GpuFacts, GpuPolicy, GpuWish, XidOverride
from supervisor.core.model import Job, Policy, World
from supervisor.effects import gpu_stock
from supervisor.errors import RetryableError, UserError
from supervisor.gpu_config import GpuDefaults

GIB = 1024**3
A, B, C = "GPU-aaaa1111-2222-3333", "GPU-aaaa9999-2222-3333", "GPU-cccc1111-2222-3333"


def read(text):
    """The configuration of a text."""
    return config.parse(text.encode(), "config.toml")


def wrong(text):
    """What is wrong with a configuration, by key."""
    with pytest.raises(UserError) as caught:
        read(text)
    return {problem.key: problem for problem in caught.value.problems}


# ---- the configuration
def test_the_policy_has_what_is_decided_by():
    """All that deciding needs of [gpu] reaches the pure part; by default GPUs are watched, and nothing is done to them."""
    assert config.policy(config.Config(), 2).gpu == GpuPolicy(watch=True)
    text = """[gpu]
watch = false
foreign = "ignore"
self_test = "start"
reset_command = ["nvidia-smi", "--gpu-reset", "-i", "{uuid}"]
reboot_command = ["systemctl", "reboot"]
power_cap = "80%"
[[gpu.xid]]
xid = 31
gpu = "note"
"""
    expected = GpuPolicy(
        watch=False, foreign="ignore", self_test="start", reset=True, reboot=True, power_cap=0.8,
        xids=(XidOverride(xid=31, gpu="note"),),
    )  # fmt: skip
    assert config.policy(read(text), 2).gpu == expected


def test_a_reload_takes_over_what_is_decided_by():
    """Rules and limits hold at once; how GPUs are watched, and commands of root, need a restart, and that is said."""
    text = '[gpu]\nforeign = "ignore"\nself_test = "never"\npower_cap = "50%"\n[[gpu.xid]]\nxid = 31\ngpu = "none"\n'
    now, ignored = config.reloaded(config.Config(), read(text))
    assert (config.policy(now, 0).gpu, ignored) == (config.policy(read(text), 0).gpu, [])
    now, ignored = config.reloaded(config.Config(), read('[gpu]\nfast = "1s"\nreset_command = ["x"]\n'))
    assert (now, ignored) == (config.Config(), ["gpu"])


@pytest.mark.parametrize(
    ("line", "key", "said"),
    [
        ('kmsg = "dmesg"', "gpu.kmsg", "an absolute path"),
        ("kmsg = true", "gpu.kmsg", "a text"),
        ('pci = "sys"', "gpu.pci", "an absolute path"),
        ('fast = "50ms"', "gpu.fast", "100ms"),
        ('fast = "2m"', "gpu.fast", "raise slow"),
        ("fast = 5", "gpu.fast", "unit"),
        ('foreign = "kill"', "gpu.foreign", '"respect", "ignore"'),
        ('self_test = "always"', "gpu.self_test", '"quarantine"'),
        ('power_cap = "30%"', "gpu.power_cap", '"50%" to "99%"'),
        ("power_cap = 0.8", "gpu.power_cap", '"off"'),
        ('reset_command = "nvidia-smi"', "gpu.reset_command", "a list"),
        ('reset_command = ["x", "{gpu}"]', "gpu.reset_command", "{uuid}"),
        ('reboot_command = ["bin/reboot"]', "gpu.reboot_command", "relative path"),
        ("limits = { margin_warm_c = 5.0 }", "gpu.limits.margin_warm_c", "did you mean `margin_warn_c`"),
        ("limits = { too_hot_samples = 0 }", "gpu.limits.too_hot_samples", ">= 1"),
        ('limits = { margin_warn_c = "5" }', "gpu.limits.margin_warn_c", "float"),
        ('limit = [{ gpu = "L40", band_c = 1.0 }]', "gpu.limit[1].gpu", '"GPU-…"'),
        ('limit = [{ gpu = "GPU-1234" }]', "gpu.limit[1].gpu", "changes no threshold"),
        ('limit = [{ gpu = "GPU-1234", band = 1.0 }]', "gpu.limit[1].band", "unknown threshold"),
        ("xid = [{ xid = 31 }]", "gpu.xid[1].xid", "changes nothing"),
        ('xid = [{ xid = 31, gpu = "burn" }]', "gpu.xid[1].gpu", '"quarantine"'),
        ("watched = true", "gpu.watched", "did you mean `watch`"),
    ],
)
def test_what_is_wrong_in_gpu_is_said(line, key, said):
    """Each with its line, its key, and what would be right."""
    problem = wrong(f"[gpu]\n{line}\n")[key]
    assert problem.line == 2
    assert said in problem.render()


def test_thresholds_for_one_gpu_stand_over_those_for_all():
    """What is for all comes first, what is for one GPU, named by its UUID or the beginning of it, last."""
    gpu = read(
        "[gpu.limits]\nmargin_warn_c = 8.0\nband_c = 1.0\n"
        f'[[gpu.limit]]\ngpu = "{A[:8]}"\nband_c = 3.0\n[[gpu.limit]]\ngpu = "{B}"\nband_c = 4.0\n'
    ).gpu
    tables = gpu_watch._watching(gpu).limits
    found = [limits.for_gpu("NVIDIA L40S", *tables(uuid)) for uuid in (A, B, C)]
    assert [one.margin_warn_c for one in found] == [8.0, 8.0, 8.0]
    assert [one.band_c for one in found] == [3.0, 4.0, 1.0]


def test_the_command_for_one_gpu():
    """Its words, with who it is in them."""
    words = ("nvidia-smi", "--gpu-reset", "-i", "{uuid}", "{{{index}}}", "{bus_id}")
    given = gpu_config.command(words, uuid=A, index=3, bus_id="0000:3b:00.0")
    assert given == ["nvidia-smi", "--gpu-reset", "-i", A, "{3}", "0000:3b:00.0"]


def test_what_is_shown_of_exceptions_is_read_back():
    """`config show` prints tables in tables as well, without what was left open."""
    text = f'[gpu]\nlimits = {{ band_c = 1.0 }}\n[[gpu.limit]]\ngpu = "{A}"\nband_c = 3.0\n[[gpu.xid]]\nxid = 31\ngpu = "note"\n'
    assert read(config.show_text(read(text))).gpu == read(text).gpu


# ---- the job file
def job(head, defaults=None):
    """The draft of a job file."""
    text = f'python = "/p"\n{head}\n[train]\nmodel = "a.yaml"\ndata = "/d.yaml"\nepochs = 3\n'
    return jobspec.parse(text.encode(), path="/j/t.toml", owner=0, defaults=defaults or Defaults(), now=0.0)


def refusal(head):
    """The one thing that is wrong with a job file."""
    with pytest.raises(UserError) as caught:
        job(head)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("head", "gpus", "wish"),
    [
        ("", "auto", GpuWish(prefer="nvlink")),
        ("gpus = 0", 0, GpuWish()),
        ("gpus = 2", 2, GpuWish(prefer="nvlink")),
        (f'gpus = [3, "{A}"]', 2, GpuWish(named=("3", A), prefer="nvlink")),
        (
            'gpus = 4\ngpu = { min = 2, memory = "20GiB", share = true, prefer = "numa" }',
            4,
            GpuWish(min=2, memory_bytes=20 * GIB, share=True, prefer="numa"),
        ),
        ("gpus = 2\ngpu.min = 2", 2, GpuWish(min=2, prefer="nvlink")),
    ],
)
def test_what_a_job_wants_of_gpus(head, gpus, wish):
    """How many, or which; and what each of them must be."""
    draft = job(head)
    assert (draft.gpus, draft.job.gpu) == (gpus, wish)


def test_the_jobs_own_word_comes_before_the_defaults():
    """Key by key; a default for more GPUs than the job has means all of them."""
    defaults = Defaults(gpus=(1, 2), gpu=GpuDefaults(min=2, memory=GIB, prefer="numa"))
    assert job("", defaults).job.gpu == GpuWish(named=("1", "2"), min=2, memory_bytes=GIB, prefer="numa")
    draft = job('gpus = 1\ngpu.prefer = "nvlink"', defaults)
    assert (draft.gpus, draft.job.gpu) == (1, GpuWish(min=1, memory_bytes=GIB, prefer="nvlink"))
    assert job("gpus = 0", defaults).job.gpu == GpuWish()


@pytest.mark.parametrize(
    ("head", "key", "said"),
    [
        ("gpus = []", "gpus", "names no GPU"),
        ("gpus = [0, 0]", "gpus", "named twice; got 0"),
        (f'gpus = ["{A}", "{A.lower().replace("gpu", "GPU")}"]', "gpus", "named twice"),
        ('gpus = ["0"]', "gpus", "an index or a text"),
        ('gpus = ["MIG-aaaa1111"]', "gpus", 'a text "GPU-…"'),
        ("gpus = [-1]", "gpus", "an index"),
        ("gpus = 2\ngpu.min = 3", "gpu.min", "at most 2, as gpus says; got 3"),
        ("gpu.min = 2", "gpu.min", 'gpus = "auto"'),
        ("gpus = [1]\ngpu.min = 2", "gpu.min", "at most 1"),
        ('gpus = 0\ngpu.memory = "1GiB"', "gpu.memory", "gpus = 0"),
        ('gpus = 2\ngpu.prefer = "pcie"', "gpu.prefer", '"nvlink", "numa"'),
        ("gpus = 2\ngpu.memory = 20", "gpu.memory", "unit"),
        ("gpus = 2\ngpu.share = 1", "gpu.share", "true or false"),
        ("gpus = 2\ngpu.mem = 1", "gpu.mem", "`memory`"),
    ],
)
def test_what_does_not_fit_together_is_refused(head, key, said):
    """With key, line, and what would be right."""
    problem = refusal(head)
    assert (problem.key, problem.line) == (key, 1 + len(head.splitlines()))
    assert said in problem.render()


def test_a_default_that_names_a_gpu_twice_is_refused():
    """[defaults] is held to the same rules."""
    assert "named twice" in wrong("[defaults]\ngpus = [1, 1]\n")["defaults.gpus"].render()


# ---- what this server has
def stock(**options):
    """Three GPUs, the last one lost."""
    facts = [
        GpuFacts(uuid=A, index=0, name="NVIDIA L40S", bus_id="0000:3b:00.0", memory_bytes=48 * GIB),
        GpuFacts(uuid=B, index=1, name="NVIDIA L40S", bus_id="0000:5e:00.0", memory_bytes=48 * GIB),
        GpuFacts(uuid=C, index=2, name="NVIDIA L4", bus_id="0000:86:00.0", memory_bytes=24 * GIB),
    ]
    gpus = [Gpu(uuid=one.uuid, facts=one, present=one.uuid != C) for one in facts]
    return gpu_stock.GpuStock(tuple(gpus), **options)


@pytest.fixture
def machine(tmp_path):
    """A machine on which the usual job is fine."""
    made = Machine(tmp_path)
    (made.root / "weights/yolo26n.pt").touch()
    return made


def checker(machine, found):
    """A checker that is told which GPUs there are."""
    return machine.checker(gpus=lambda: found)


@pytest.mark.parametrize(
    ("named", "uuids"),
    [("[0, 2]", (A, C)), (f'["{B}", 0]', (B, A)), ('["GPU-cccc"]', (C,)), (f'["{A.replace("aaaa", "AAAA")}"]', (A,))],
)
def test_named_gpus_become_uuids_when_the_job_is_accepted(machine, named, uuids):
    """Indices may change at the next boot. A lost GPU may be named: it may come back."""
    found = accepted(checker(machine, stock()), machine.text(head=f"gpus = {named}"))
    assert (found.gpus, found.gpu.named) == (len(uuids), uuids)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("gpus = [7]", "there is no GPU 7; there are GPUs 0 to 2"),
        ('gpus = ["GPU-aaaa"]', "give more of the UUID"),
        ('gpus = ["GPU-ffff0000"]', "there is no GPU GPU-ffff0000"),
        (f'gpus = [0, "{A}"]', "named twice, by index and by UUID"),
        ("gpus = 4", "too many GPUs; expected at most 3"),
        ('gpus = 3\ngpu.memory = "40GiB"', "expected at most 24GiB, which 3 of its GPUs have; got 40GiB"),
        ('gpus = 1\ngpu.memory = "80GiB"', "no GPU here has so much memory; expected at most 48GiB; got 80GiB"),
        ('gpus = [2]\ngpu.memory = "40GiB"', "expected at most 24GiB"),
        ('gpus = [2]\ngpu.memory = "24.1GiB"', 'write "24GiB"'),
    ],
)
def test_what_can_never_be_met_is_refused(machine, head, said):
    """A job that could never start is refused at once, with what there is."""
    assert said in refused(checker(machine, stock()), machine.text(head=head))


@pytest.mark.parametrize("head", ['gpus = 2\ngpu.memory = "40GiB"', 'gpus = 3\ngpu = { min = 2, memory = "40GiB" }'])
def test_memory_that_enough_gpus_have(machine, head):
    """As many as it goes on with at least must have it."""
    assert accepted(checker(machine, stock()), machine.text(head=head)).gpu.memory_bytes == 40 * GIB


def test_without_a_watch_gpus_have_indices_only(machine):
    """There they stay indices, their memory is not judged, and a UUID names none."""
    unwatched = gpu_stock.numbered(2)
    found = accepted(checker(machine, unwatched), machine.text(head='gpus = [1]\ngpu.memory = "999GiB"'))
    assert (found.gpus, found.gpu.named) == (1, ("1",))
    text = refused(checker(machine, unwatched), machine.text(head=f'gpus = ["{A}"]'))
    assert "GPUs have no UUIDs here, because nobody watches them; expected one of 0; 1; got GPU-aaaa1111" in text
    assert "this server has none" in refused(checker(machine, gpu_stock.numbered(0)), machine.text(head="gpus = [0]"))


def test_a_wish_about_gpus_means_nothing_on_the_cpu(machine):
    """Where "auto" finds no GPU, the job runs on the CPU."""
    found = accepted(checker(machine, gpu_stock.GpuStock()), machine.text(head='gpu.memory = "1GiB"'))
    assert (found.gpus, found.gpu) == (0, GpuWish())


def test_before_the_driver_has_answered_a_job_waits(machine):
    """It is checked again then, not refused; a job for the CPU does not wait."""
    waiting = machine.checker(gpus=lambda: gpu_stock.of_world(World(policy=WATCHED), 0.0))
    for head in ("", "gpus = 1", "gpus = [0]"):
        with pytest.raises(RetryableError, match="driver has not answered"):
            waiting(action(machine.text(head=head)))
    assert accepted(waiting, machine.text(head="gpus = 0")).gpus == 0


WATCHED = Policy(gpu=GpuPolicy(watch=True), gpu_count=9)


def test_what_a_daemon_knows_of_its_gpus():
    """Lost GPUs count; without a watch the number is all; a driver that knows of none is believed."""
    gpus = {gpu.uuid: gpu for gpu in stock().gpus}
    for state in (model.OK, "unresponsive", "no-driver"):
        assert gpu_stock.of_world(World(policy=WATCHED, gpus=gpus, driver=Driver(state=state)), 0.0) == stock()
    assert gpu_stock.of_world(World(policy=Policy(gpu_count=2)), 0.0) == gpu_stock.numbered(2)
    unwatched = World(policy=WATCHED, driver=Driver(state="no-library"))
    assert gpu_stock.of_world(unwatched, 0.0) == gpu_stock.numbered(9)
    assert gpu_stock.of_world(World(policy=WATCHED, driver=Driver(state="none")), 0.0).gpus == ()


def broken_stock(now, count=2):
    """What is known where a driver was in trouble from 100.0 on, before it told of a GPU."""
    driver = Driver(state="version-mismatch", text="the driver was changed", since=100.0)
    return gpu_stock.of_world(World(policy=msgspec.structs.replace(WATCHED, gpu_count=count), driver=driver), now)


def test_a_driver_in_trouble_does_not_have_jobs_refused(machine):
    """It is asked again, with the reason; after a minute the number of GPUs will do, and the job waits as a run."""
    for now, count in ((159.0, 2), (1e6, 0)):
        with pytest.raises(RetryableError, match="which GPUs there are: the driver was changed"):
            broken_stock(now, count)
    known = checker(machine, broken_stock(160.0))
    whole = "GPU-01234567-89ab-cdef-0123-456789abcdef"
    found = [accepted(known, machine.text(head=head)).gpus for head in ("", "gpus = 2", f'gpus = ["{whole}"]')]
    assert found == [1, 2, 1]
    assert accepted(known, machine.text(head="gpus = [1]")).gpu.named == ("1",)
    assert "too many GPUs; expected at most 2" in refused(known, machine.text(head="gpus = 3"))
    assert "does not tell now which GPU this is" in refused(known, machine.text(head='gpus = ["GPU-0123"]'))


# ---- what is said before a job is submitted
@pytest.mark.parametrize(
    ("gpus", "wish", "words"),
    [
        (0, GpuWish(), "CPU"),
        (1, GpuWish(prefer="nvlink"), "1 GPU"),
        (2, GpuWish(named=("3", A)), f"GPU 3, {A}"),
        (4, GpuWish(min=2, memory_bytes=20 * GIB), "4 GPUs, or 2 if the others are broken, with 20GiB each"),
        (1, GpuWish(memory_bytes=GIB, share=True, prefer="numa"), "1 GPU, with 1GiB, shared with others"),
        (2, GpuWish(min=2, prefer="numa"), "2 GPUs, of one processor if possible"),
    ],
)
def test_the_plan_says_what_it_computes_on(gpus, wish, words):
    """In one line."""
    assert device_words(Job(name="t", revision="r", gpus=gpus, gpu=wish)) == words


@pytest.mark.parametrize(
    ("change", "notes"),
    [
        ({"train": {"batch": 64}, "gpu": GpuWish(min=2)}, ["never goes on with 3 GPUs"]),
        ({"train": {"batch": 12}, "gpu": GpuWish(min=1)}, []),
        ({"train": {"batch": 10}}, ["has no 4 equal parts"]),
        ({"train": {"batch": 64}}, []),
        ({"command": ("torchrun", "--nproc_per_node", "4", "x.py"), "gpu": GpuWish(min=1)}, ["{gpu_count} in it"]),
        ({"command": ("torchrun", "--nproc_per_node", "{gpu_count}", "x.py"), "gpu": GpuWish(min=1)}, []),
        ({"command": ("x",), "checkpoints": {"hook": False}}, ["without our hook"]),
    ],
)
def test_the_plan_says_what_a_number_of_gpus_means(change, notes):
    """A batch that cannot be spread is a note, not a refusal; so is a command that counts for itself."""
    made = msgspec.convert(
        {"name": "t", "revision": "r", "gpus": 4, "python": "/p", **msgspec.to_builtins(change)}, Job
    )
    said = plan(made, config.Config(), None)["notes"]
    assert len(said) == len(notes), said
    assert all(part in one for part, one in zip(notes, said, strict=True))
