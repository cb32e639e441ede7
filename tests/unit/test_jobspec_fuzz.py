"""Whatever lies in the jobs folder: a Job or a UserError, never anything else, and soon."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor import toml_errors
from supervisor.config import Config, Defaults
from supervisor.config import parse as parse_config
from supervisor.core.model import Job
from supervisor.errors import UserError
from supervisor.job_rules import JobFile
from supervisor.jobspec import JobDraft, parse

GOOD = (
    b'name = "truck"\nproject = "p"\npython = "/e/bin/python"\ngpus = 1\ntime_limit = "3d"\nlimits = { log_max = "5MB" }\n'
    b'restart = { backoff = "1s" }\nstart_after = "22:00"\nenv = { A = "1" }\n[train]\nmodel = "m.yaml"\ndata = "/d.yaml"\nepochs = 3\n'
)
CORPUS = {
    "empty": b"",
    "only a mark": b"\xef\xbb\xbf",
    "two marks": b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD,
    "utf-16": GOOD.decode().encode("utf-16"),
    "utf-16-be": GOOD.decode().encode("utf-16-be"),
    "utf-32": GOOD.decode().encode("utf-32"),
    "gbk": 'title = "训练"\n'.encode("gbk") + GOOD,
    "carriage returns": GOOD.replace(b"\n", b"\r\n"),
    "old mac": GOOD.replace(b"\n", b"\r"),
    "one megabyte": b"#" * 1_000_000,
    "just fits": b"#" * toml_errors.LARGEST_FILE_BYTES,
    "one byte more": b"#" * (toml_errors.LARGEST_FILE_BYTES + 1),
    "binary": bytes(range(256)) * 64,
    "zeros": bytes(4096),
    "deep lists": b"a = " + b"[" * 100_000,
    "deep closed lists": b"a = " + b"[" * 500 + b"]" * 500,
    "deep tables": b"a = " + b"{a=" * 500 + b"1" + b"}" * 500,
    "deep header": b"[" + b"a." * 60_000 + b"a]\nx = 1",
    "deep quoted header": b"[" + b"'a b'." * 30_000 + b"a]\nx = 1",
    "deep key": b"a." * 100_000 + b"a = 1",
    "deep spaced key": b"a . " * 50_000 + b"a = 1",
    "deep settings": b"settings.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a = 1\n" + GOOD,
    "many keys": b"".join(b"k%d = 1\n" % i for i in range(20_000)),
    "many tables": b"".join(b"[t%d]\n" % i for i in range(20_000)),
    "many tables in a list": b"[[train]]\n" * 20_000,
    "many unknown arguments": GOOD + b"".join(b"k%d = 1979-05-27\n" % i for i in range(10_000)),
    "long line of words": b"title = " + b"a" * 200_000,
    "long line of dots": b"title = '" + b"." * 200_000 + b"'",
    "long line of spaces": b"a" + b" " * 200_000,
    "long name": b'name = "' + b"a" * 200_000 + b'"\n' + GOOD.partition(b"\n")[2],
    "spaces before a dot": b"a " + b" " * 100_000 + b"." + b" " * 100_000,
    "twice": GOOD + GOOD,
    "key twice": b"gpus = 1\n" + GOOD,
    "climbing name": GOOD.replace(b'"truck"', b'"../../etc/cron.d/x"'),
    "climbing project": GOOD.replace(b'"p"', b'".."'),
    "zero in a text": GOOD.replace(b'"/d.yaml"', b'"/d\\u0000.yaml"'),
    "escape in a text": GOOD.replace(b'"1"', b'"\\u001b[2J"'),
    "control character": GOOD.replace(b"truck", b"tr\x07ck"),
    "surrogate": GOOD.replace(b"truck", b"\\ud800"),
    "huge number": GOOD.replace(b"epochs = 3", b"epochs = 1" + b"0" * 4000),
    "huger number": GOOD.replace(b"epochs = 3", b"epochs = 1" + b"0" * 5000),
    "hexadecimal number": GOOD.replace(b"epochs = 3", b"epochs = 0x" + b"f" * 50_000),
    "infinite": GOOD + b"lr0 = inf\n",
    "not a number": GOOD + b"lr0 = nan\n",
    "huge exponent": GOOD + b"lr0 = 1e999999\n",
    "dates": GOOD + b"lr0 = 1979-05-27T07:32:00Z\n",
    "first year": GOOD.replace(b'"22:00"', b"0001-01-01T00:00:00"),
    "last year": GOOD.replace(b'"22:00"', b"9999-12-31T23:59:59-23:59"),
    "no such day": GOOD.replace(b'"22:00"', b"2026-02-30T00:00:00"),
    "train is a list": b"train = [1]\n",
    "train is a number": b"train = 1\n",
    "train twice as list": b"[[train]]\n[[train]]\n",
    "everything is a table": b"".join(b"%s = { a = 1 }\n" % key.encode() for key in JobFile.__struct_fields__),
    "everything is a list": b"".join(b"%s = [[]]\n" % key.encode() for key in JobFile.__struct_fields__),
    "odd keys": b'"" = 1\n"a.b" = 1\n"\\n" = 1\n\'"\' = 1\n',
    "slow expression": b'command = ["x"]\ndone = { log = "(a+)+$" }',
    "deep expression": b'command = ["x"]\ndone = { log = "' + b"(" * 5000 + b")" * 5000 + b'" }',
    "large repeat": b'command = ["x"]\ndone = { log = "a{99999999999}" }',
}


#: Seconds each; the same limits of the same reader stop them in a job file, which is tried always.
LARGE = {"deep quoted header", "many tables", "many keys"}


def _slow_if_large(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name


def outcome(call):
    """What a call returns, or the message for a person; any other exception is a failure of the test."""
    try:
        return call()
    except UserError as error:
        return error


def read(data):
    """Parse within the promise; what comes out can be written to the journal."""
    began = time.perf_counter()
    result = outcome(lambda: parse(data, path="/jobs/truck.toml", owner=0, defaults=Defaults(), now=1e9))
    assert time.perf_counter() - began < 10
    if isinstance(result, JobDraft):
        assert msgspec.json.decode(msgspec.json.encode(result.job), type=Job) == result.job
        return result.job
    assert str(result).startswith("/jobs/truck.toml: ")
    return None


def test_the_good_file_is_good():
    """The file that the others are made from is accepted."""
    assert read(GOOD).train == {"model": "m.yaml", "data": "/d.yaml", "epochs": 3}


@pytest.mark.parametrize("name", CORPUS)
def test_known_evils(name):
    """Each file that broke a parser somewhere is read or refused in time."""
    read(CORPUS[name])


@pytest.mark.parametrize("name", [_slow_if_large(name) for name in CORPUS])
def test_known_evils_as_configuration(name):
    """The same files as config.toml end in a configuration or a UserError."""
    result = outcome(lambda: parse_config(CORPUS[name], "config.toml"))
    assert isinstance(result, Config) or str(result).startswith("config.toml: ")


@given(st.binary(max_size=2000))
def test_any_bytes(data):
    """Any bytes are read or refused."""
    read(data)


@given(st.text(alphabet=st.sampled_from("[]{}=.,#'\"\\\n\r\t abtrue0123456789-:T_é\ufeff\x01"), max_size=200))
def test_any_near_toml(text):
    """Text made of TOML's own characters is read or refused."""
    read(text.encode())


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=8))
def test_damaged_files(start, length, replacement):
    """A good file with a piece cut out or overwritten is read or refused."""
    read(GOOD[:start] + replacement + GOOD[start + length :])


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.sampled_from(["/abs", "rel/ative", "auto", "5m", "5GiB", "{run_dir}/x", "{x}", "22:00", "../..", "a" * 70]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
known_keys = st.sampled_from([*JobFile.__struct_fields__, "env_pass", "gpu", "nmae"])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(known_keys, values, max_size=6))
def test_any_values_of_known_keys(table):
    """Known keys with values of any type are read or refused."""
    lines = [f"{key} = {toml_errors.format_value(value)}" for key, value in table.items() if value is not None]
    read("\n".join(lines).encode("utf-8", "surrogatepass"))


@given(values)
def test_values_are_written_as_toml(value):
    """What we write as TOML is read back as it was."""
    if "None" in repr(value) or "nan" in repr(value):
        return
    text = f"x = {toml_errors.format_value(value)}"
    assert toml_errors.tomllib.loads(text)["x"] == value
