"""What messages look like and what answers mean: golden signatures, limits, and texts that mean harm."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.actions import Announce, Launch
from supervisor.core.model import Job
from supervisor.core.plain_text import plain
from supervisor.effects.notify import Notifier, slack, webhook
from supervisor.effects.notify.delivery import SCHEDULE_S, retry_delay_s
from supervisor.effects.notify.post import Line, Reply, post, retry_after_s
from supervisor.errors import PermanentError, RetryableError


class VirtualClock:
    """Time that passes when the test says so."""

    def __init__(self, now=1_700_000_000.0):
        self.time = now

    def now(self):
        """See Clock.now."""
        return self.time


@dataclass(frozen=True)
class Channel:
    """A channel as the configuration gives it."""

    name: str = "ops"
    kind: str = "webhook"
    url: str = "http://127.0.0.1:9/geheim"
    secret: str = ""
    proxy: str = ""
    ca_file: Path | None = None


def announcement(**fields):
    base = {
        "key": "announce-truck@1-3",
        "run": "truck@1",
        "channel": "ops",
        "what": "failed",
        "severity": "page",
        "title": "truck FAILED",
        "text": "exit code 1 three times without a new epoch",
        "todo": "yolo-supervisor logs truck",
        "at": 1_700_000_000.0,
        "facts": {"attempts": "3", "log": "line 1\nCUDA error"},
    }
    return Announce(**{**base, **fields})


# ---- Standard Webhooks
def test_signature_of_the_specifications_own_example():
    """The published example of Standard Webhooks (also checked with openssl) comes out letter by letter."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = webhook.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, b'{"test": 2432232314}', secret)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_signature_of_an_id_with_other_letters_and_of_two_secrets():
    """Computed with `openssl dgst -sha256 -mac HMAC` over id.timestamp.body; two secrets give two signatures."""
    secrets = "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s= whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = webhook.headers("announce-truck车@1/3", 1_700_000_000, '{"a":"ü"}'.encode(), secrets)
    assert headers["webhook-id"] == "announce-truck%E8%BD%A6@1/3"
    first, second = headers["webhook-signature"].split(" ")
    assert first == "v1,pYNAOdH9OhHgLXuxklDRtwInwRvTlvCQswBeyJY9re4="
    assert second.startswith("v1,")
    assert second != first


def test_no_secret_no_signature():
    """Without a secret the other two headers stay."""
    assert set(webhook.headers("key", 1.0, b"{}", "")) == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize("secret", ["whsec_c2hvcnQ=", "whsec_!!!", "plain words", "whsec_" + "QUFB" * 30])
def test_a_secret_that_is_none_is_refused_and_not_repeated(secret):
    """Too short, too long or no base64: permanent, and the text does not contain it."""
    with pytest.raises(PermanentError) as caught:
        webhook.headers("key", 1.0, b"{}", secret)
    assert secret.split()[0] not in str(caught.value)


def test_an_id_cannot_add_headers():
    """A line end in a key is no line end in the header."""
    assert "\n" not in webhook.headers("a\r\nX-Evil: 1", 1.0, b"", "")["webhook-id"]


def test_generic_payload():
    """{"type", "timestamp", "data"}: the same at every try, since it is made from the action alone."""
    body = json.loads(webhook.request_body(announcement(), "gpu1"))
    assert body["type"] == "run.failed"
    assert body["timestamp"] == "2023-11-14T22:13:20.000Z"
    assert body["data"] == {
        "run": "truck@1",
        "what": "failed",
        "severity": "page",
        "server": "gpu1",
        "title": "truck FAILED",
        "text": "exit code 1 three times without a new epoch",
        "todo": "yolo-supervisor logs truck",
        "facts": {"attempts": "3", "log": "line 1\nCUDA error"},
    }
    assert json.loads(webhook.request_body(announcement(run="")))["type"] == "supervisor.failed"


def test_generic_payload_keeps_the_end_of_a_long_log_below_20_kb():
    """A log of a megabyte loses its beginning, a text its end."""
    log = "".join(f"line {number}\n" for number in range(100_000)) + "CUDA error"
    body = webhook.request_body(announcement(facts={"log": log, "attempts": "3"}, text="Grund: " + "ü" * 50_000))
    data = json.loads(body)["data"]
    assert len(body) < 20_000
    assert data["facts"]["log"].endswith("CUDA error")
    assert data["text"].startswith("Grund: ü")
    assert data["facts"]["attempts"] == "3"


texts = st.text(alphabet=st.characters(), max_size=400)


@given(texts, st.dictionaries(texts, texts, max_size=100))
def test_generic_payload_is_always_small_valid_json(text, facts):
    """Whatever a job puts into its texts."""
    body = webhook.request_body(announcement(title=text, text=text * 60, facts={k: v * 30 for k, v in facts.items()}))
    assert len(body) < 20_000
    assert json.loads(body)["data"]["run"] == "truck@1"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, None),
        (204, None),
        (299, None),
        (301, RetryableError),
        (302, RetryableError),
        (307, RetryableError),
        (400, PermanentError),
        (404, RetryableError),
        (408, RetryableError),
        (410, PermanentError),
        (425, RetryableError),
        (429, RetryableError),
        (500, RetryableError),
        (502, RetryableError),
        (503, RetryableError),
    ],
)
def test_answers_of_a_generic_receiver(status, outcome):
    """Any 2xx is sent; 429 and 5xx come again; a redirect, 410 and other 4xx are final."""
    if outcome is None:
        webhook.judge(Reply(status))
        return
    with pytest.raises(outcome, match=str(status)):
        webhook.judge(Reply(status))


# ---- Slack
@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b"ok", None),
        (200, b"ok\n", None),
        (200, b"", RetryableError),
        (200, b"<html>please log in</html>", RetryableError),
        (204, b"", RetryableError),
        (302, b"", RetryableError),
        (400, b"invalid_payload", PermanentError),
        (400, b"never_heard_of", PermanentError),
        (403, b"invalid_token", PermanentError),
        (404, b"no_service", PermanentError),
        (410, b"channel_is_archived", PermanentError),
        (429, b"", RetryableError),
        (500, b"rollup_error", RetryableError),
        (503, b"no_active_hooks", PermanentError),
    ],
)
def test_answers_of_slack(status, body, outcome):
    """Only `200 ok` is sent: a login page of some proxy is not, and an unknown answer never is."""
    if outcome is None:
        slack.judge(Reply(status, body))
        return
    with pytest.raises(outcome):
        slack.judge(Reply(status, body))


def test_slack_message():
    """Header, reason, what to do, facts side by side, the log in a code block, and where it comes from."""
    body = json.loads(slack.request_body(announcement(), "gpu1"))
    kinds = [block["type"] for block in body["blocks"]]
    assert kinds == ["header", "section", "section", "section", "section", "context"]
    assert body["text"].endswith("truck FAILED")
    assert body["blocks"][2]["text"]["text"] == "*To do:* yolo-supervisor logs truck"
    assert body["blocks"][3]["fields"][0]["text"] == "*attempts*\n3"
    assert body["blocks"][4]["text"]["text"] == "*log*\n```\nline 1\nCUDA error\n```"
    assert "gpu1 · truck@1 · 2023-11-14 22:13:20 UTC" in body["blocks"][5]["elements"][0]["text"]


def test_a_job_named_as_a_mention_mentions_nobody():
    """`<!channel>` and its kin arrive as text, wherever they stand."""
    evil = "<!channel> <!here> <@U012> <!subteam^S1> <https://evil|click> & @channel"
    body = slack.request_body(announcement(title=evil, text=evil, todo=evil, facts={evil: evil, "log": evil}), evil)
    assert not any("<" in text or ">" in text for text in _texts(json.loads(body)))
    assert b"&lt;!channel&gt;" in body
    assert json.loads(body)["link_names"] is False


def test_a_log_cannot_leave_its_code_block():
    """Three backticks in a log do not end the block, colours and reversed text are gone, the end is kept."""
    log = "x" * 5000 + "\n```\n<!channel>\x1b[31mred\x1b[0m \u202egnp.exe\x00"
    body = json.loads(slack.request_body(announcement(facts={"log": log})))
    (text,) = [text for text in _texts(body) if "```" in text]
    assert text.count("```") == 2
    assert text.endswith("'''\n&lt;!channel&gt;red gnp.exe\n```")


@given(texts, texts, st.dictionaries(texts, texts, max_size=40))
def test_slack_limits_hold_for_any_text(title, text, facts):
    """Header ≤ 150, section ≤ 3,000, field ≤ 2,000, ≤ 10 fields, ≤ 50 blocks, no live markup, in UTF-16 units."""
    facts = {name: value * 40 for name, value in facts.items()}
    body = json.loads(slack.request_body(announcement(title=title * 3, text=text * 40, facts=facts, todo=text * 9)))
    assert 1 <= len(body["blocks"]) <= 50
    for block in body["blocks"]:
        limit = {"header": 150, "section": 3000, "context": 2000}[block["type"]]
        assert all(0 < _units(part) <= limit for part in _texts(block))
        assert len(block.get("fields", [])) <= 10
    assert not any(re.search("[<>\x00-\x08\x1b\u202e]", part) for part in _texts(body))
    assert not any(re.search("&(?!amp;|lt;|gt;)", part) for part in _texts(body))
    assert _units("".join(_texts(body))) < 13_200


@given(texts)
def test_plain_text_keeps_what_people_read(text):
    """Letters of all languages stay; what changes the terminal or the direction goes."""
    cleaned = plain(text + "é车🚚")
    assert cleaned.endswith("é车🚚")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", cleaned)


# ---- delivery
def notifier(clock=None, **channel):
    return Notifier([Channel(**channel)], clock or VirtualClock())


def test_an_unknown_channel_is_permanent():
    """A channel that was taken out of the configuration is not waited for."""
    with pytest.raises(PermanentError, match="no channel named gone"):
        notifier()(announcement(channel="gone"))


def test_another_action_is_a_bug():
    """Only announcements are announced."""
    launch = Launch(
        key="k",
        attempt=1,
        token=1,
        job=Job(name="a", revision="r"),
        gpus=(),
        start="fresh",
        checkpoint="",
        from_epoch=0,
    )
    with pytest.raises(TypeError):
        notifier()(launch)


@pytest.mark.parametrize(
    "url", ["", "geheim", "ftp://host/geheim", "http://", "http://[geheim", "http://ge heim/", "https://" + "g" * 300]
)
def test_an_unusable_address_is_said_without_repeating_it(url):
    """A typing error in an address may still hold the password."""
    with pytest.raises((PermanentError, RetryableError)) as caught:
        notifier(url=url)(announcement())
    assert "geheim" not in str(caught.value)
    assert "ggg" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_addresses_do_not_show_in_representations():
    """Nothing printed by accident shows an address or a proxy's password."""
    assert "geheim" not in repr(Line("https://h/geheim", "http://u:geheim@proxy"))


def test_slack_takes_one_message_a_second():
    """Ten messages at once get ten different moments, one second apart, and no try is used up by waiting."""
    clock = VirtualClock()
    notify = notifier(clock, kind="slack", url="geheim")
    waits = []
    for number in range(10):
        with pytest.raises((PermanentError, RetryableError)) as caught:
            notify(announcement(key=f"key-{number}"))
        waits.append(getattr(caught.value, "after_s", 0.0))
    assert waits == [float(number) for number in range(10)]
    clock.time += 3.0
    with pytest.raises(PermanentError):
        notify(announcement(key="key-3"))
    with pytest.raises(RetryableError) as caught:
        notify(announcement(key="key-4"))
    assert caught.value.after_s == 1.0


def test_the_schedule_rises_and_is_the_same_every_time():
    """1 s, 5 s, 30 s, 5 min ... 24 h, stretched by at most a fifth, not all keys alike, and never an end."""
    for tries, planned_s in enumerate((*SCHEDULE_S, SCHEDULE_S[-1], SCHEDULE_S[-1]), start=1):
        delay_s = retry_delay_s("key", tries)
        assert planned_s <= delay_s <= planned_s * 1.2
        assert delay_s == retry_delay_s("key", tries)
    assert len({retry_delay_s(f"key-{number}", 4) for number in range(100)}) == 100


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("999999999", 86400.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:00:00 GMT", 0.0),
    ],
)
def test_retry_after_as_number_and_as_date(text, seconds):
    """Both forms of the header are understood; nonsense asks for nothing, and nobody may ask for a year."""
    assert retry_after_s(text, 1_700_000_000.0) == seconds


def test_nothing_is_sent_to_other_schemes():
    """A file or another protocol is no webhook."""
    with pytest.raises(PermanentError, match="https://"):
        post(Line("file:///etc/passwd"), b"{}", {})


def _units(text):
    return len(text.encode("utf-16-le")) // 2


def _texts(value):
    if isinstance(value, str):
        return [] if value in {"header", "section", "context", "mrkdwn", "plain_text", "none"} else [value]
    if isinstance(value, dict):
        return [text for part in value.values() for text in _texts(part)]
    return [text for part in value for text in _texts(part)] if isinstance(value, list) else []
