"""What leaves the machine has no secrets and no names in it, and can still be read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.redact import Redactor
from supervisor.core.secrets import HIDDEN

SECRET = "hunter2-Qx81"


# ---- what looks like a secret
@pytest.mark.parametrize(
    "text",
    [
        f"WANDB_API_KEY={SECRET}",
        f"export MY_TOKEN={SECRET} X=1",
        f"password = '{SECRET}'",
        f'"api_key": "{SECRET}",',
        f"secret: {SECRET}",
        f"python train.py --api-key {SECRET} --epochs 3",
        f"python train.py --token={SECRET}",
        f"train --password '{SECRET}'",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"curl -H 'bearer {SECRET}'",
        f"posting to https://hooks.slack.com/services/T0/B0/{SECRET}",
        f"https://discord.com/api/webhooks/1/{SECRET}?wait=1",
        f"rtsp://admin:{SECRET}@10.0.0.7/stream",
        f"git clone https://bob:{SECRET}@git.example.com",
        f"https://example.com?token={SECRET}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\nand the log ended",
    ],
)
def test_what_is_named_or_shaped_like_a_secret_goes(text):
    """Without having been told of it."""
    shown = Redactor(names=False).text(f"before\n{text}\nafter\n")
    assert SECRET not in shown
    assert HIDDEN in shown
    assert shown.startswith("before\n")


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "a1B2" * 8,
        "ghp_" + "a1B2" * 9,
        "sk-" + "a1B2" * 8,
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-12345678-abcdef",
        "0123456789abcdef" * 2 + "01234567",
        "eyJhbGciOiJI.eyJzdWIiOiIx.abc",
    ],
)
def test_keys_of_known_services_go_wherever_they_stand(token):
    """By their shape alone."""
    assert token not in Redactor(names=False).text(f"using {token} now")


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1733, name=python3, GPU has fallen off the bus.",
        "KeyError: 'model'",
        "Epoch 3/300 36.1G box_loss 1.2 cls_loss 0.4 Instances 64",
        "GPU-3f2e3d4c-aaaa-bbbb-cccc-000000000003",
        "file:///data/truck/data.yaml",
        "0123456789abcdef" * 4,
        "see https://docs.nvidia.com",
        "/data/truck/images/train/000001.jpg: corrupt JPEG",
    ],
)
def test_what_helps_to_understand_stays(text):
    """An Xid, a traceback, a path of data, a UUID and a checksum are no secrets."""
    assert Redactor().text(text) == text


# ---- what is known as a secret
def test_a_known_secret_goes_from_all_texts():
    """What an environment names as secret is hidden where it stands alone, too; short and common words are not."""
    redactor = Redactor(names=False)
    redactor.learn_from(
        {"env": {"WANDB_API_KEY": SECRET, "TOKENIZERS_PARALLELISM": "false", "PIN_TOKEN": "abc", "EPOCHS": "three"}}
    )
    shown = redactor.text(f"got {SECRET} of three, false abc")
    assert shown == f"got {HIDDEN} of three, false abc"


@pytest.mark.parametrize(
    "data",
    [
        {"settings": {"mqtt_password": SECRET}},
        {"settings": {"secrets": {"a": [SECRET]}}},
        {"argv": ["train", "--api-key", SECRET]},
        {"argv": ["train", f"--api-key={SECRET}"]},
        {"nested": [{"token": SECRET}]},
    ],
)
def test_secrets_in_data_are_found_and_hidden_in_place(data):
    """At any depth, behind keys and behind options."""
    redactor = Redactor(names=False)
    assert SECRET not in str(redactor.data(data))
    redactor.learn_from(data)
    assert redactor.text(f"x{SECRET}y") == f"x{HIDDEN}y"


def test_data_keeps_its_shape():
    """Keys stay, numbers stay, and what is no secret is not touched."""
    data = {"a": [1, None, True, {"text": "fine"}], "token": None, "tokens": 5}
    assert Redactor().data(data) == {"a": [1, None, True, {"text": "fine"}], "token": None, "tokens": HIDDEN}


# ---- names
def test_people_and_the_host_get_other_names():
    """The same one everywhere, so that two people stay two."""
    redactor = Redactor()
    redactor.learn_host("gpu-box-7.example.com")
    redactor.learn_people_in("/home/alice/yolo and bob (uid 1001) via CLI")
    shown = redactor.text("alice@gpu-box-7: /home/alice/yolo, bob waits for alice; alicesmith; gpu-box-7.example.com")
    assert shown == "user1@host: /home/user1/yolo, user2 waits for user1; alicesmith; host"


def test_names_stay_where_that_is_wanted():
    """Secrets go all the same."""
    redactor = Redactor(names=False)
    redactor.learn_host("box-7")
    redactor.learn_people_in("/home/alice/x")
    assert redactor.text(f"alice@box-7 TOKEN={SECRET}") == f"alice@box-7 TOKEN={HIDDEN}"


def test_system_accounts_are_nobody():
    """`root` is a word of logs; it says nothing of a person."""
    redactor = Redactor()
    redactor.learn_person("root", "nobody", "")
    assert redactor.text("root was here") == "root was here"


@given(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9]{8,40}", fullmatch=True))
def test_no_text_brings_a_known_secret_back(text, secret):
    """Whatever stands around it."""
    redactor = Redactor(names=False)
    redactor.learn_secret(secret)
    if secret.isdigit():
        return
    assert secret not in redactor.text(f"{text}{secret}{text}")


@pytest.mark.parametrize("piece", ["x", "a.", "-", "key", "a@b."])
def test_a_log_of_one_long_word_takes_no_hours(piece):
    """Whatever a program prints without a space: the time grows with the length, not with its square."""
    text = piece * (20_000 // len(piece))
    begun = time.thread_time()
    redactor = Redactor()
    redactor.learn_people_in(text)
    redactor.text(text)
    assert time.thread_time() - begun < 5.0
