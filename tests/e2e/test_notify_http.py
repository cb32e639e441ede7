"""Delivery over real HTTP to a real server on this machine, with everything that goes wrong there."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest

from supervisor.clock import WallClock
from supervisor.core.events import Announced
from supervisor.effects.notify import Notifier
from supervisor.errors import PermanentError, RetryableError
from tests.unit.test_notify import Channel, announcement
from tests.webhook_receiver import Receiver

pytestmark = pytest.mark.e2e
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def notifier(receiver, path="/geheim", whole_s=5.0, read_s=5.0, **channel):
    channel = {"url": receiver.url(path) if hasattr(receiver, "url") else receiver, **channel}
    return Notifier([Channel(**channel)], WallClock(), "gpu1", whole_s=whole_s, read_s=read_s)


def failure_of(notify, action=None):
    """The error of one try, which must not hold the address anywhere, down its whole chain."""
    with pytest.raises((RetryableError, PermanentError)) as caught:
        notify(action or announcement())
    shown = "".join(traceback.format_exception(caught.value)).split("Error: ", 1)[1]
    assert "geheim" not in shown
    return caught.value


def test_a_signed_message_arrives_and_is_confirmed():
    """The receiver can check the signature over exactly the bytes that it got."""
    with Receiver() as receiver:
        (event,) = notifier(receiver, secret=SECRET)(announcement())
        (message,) = receiver.wait_for(1)
    assert isinstance(event, Announced)
    assert (event.channel, event.tries) == ("ops", 1)
    headers, body = message["headers"], json.dumps(message["body"], separators=(",", ":"), ensure_ascii=False)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}"
    expected = base64.b64encode(hmac.new(b"k" * 32, signed.encode(), hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["content-type"] == "application/json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


def test_a_slack_message_arrives_and_is_confirmed():
    """Slack's own answer `ok` confirms."""
    with Receiver() as receiver:
        (event,) = notifier(receiver, kind="slack")(announcement())
        (message,) = receiver.wait_for(1)
    assert event.tries == 1
    assert message["body"]["blocks"][0]["type"] == "header"
    assert "webhook-signature" not in message["headers"]


def test_retries_keep_the_id_and_are_counted():
    """503, 429 and then success: the same id and body each time, the third try is the one that counts."""
    answers = [(503, {}, b""), (429, {"Retry-After": "7"}, b""), (202, {}, b"")]
    with Receiver(*answers) as receiver:
        notify = notifier(receiver, secret=SECRET)
        assert 1.0 <= failure_of(notify).after_s <= 1.2
        assert 7.0 <= failure_of(notify).after_s <= 8.4
        notify._pacers["ops"]._next_at = 0.0  # the 7 s are over
        (event,) = notify(announcement())
        messages = receiver.wait_for(3)
    assert event.tries == 3
    assert len({message["headers"]["webhook-id"] for message in messages}) == 1
    assert all(message["body"] == messages[0]["body"] for message in messages)


def test_what_a_channel_asked_for_holds_for_its_other_messages():
    """After 429 with 60 s the next message is not even sent."""
    with Receiver((429, {"Retry-After": "60"}, b"")) as receiver:
        notify = notifier(receiver, kind="slack")
        assert failure_of(notify).after_s >= 60.0
        assert failure_of(notify, announcement(key="another")).after_s >= 59.0
        assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["slack", "webhook"])
def test_a_redirect_is_never_followed(status, kind):
    """The message goes to nobody that an answer names."""
    with Receiver() as elsewhere, Receiver((status, {"Location": elsewhere.url("/stolen")}, b"")) as receiver:
        error = failure_of(notifier(receiver, kind=kind))
        assert isinstance(error, RetryableError)
        assert "redirect" in str(error)
        assert elsewhere.received == []


def test_200_with_the_wrong_body_is_not_sent():
    """A login page of a proxy is no confirmation by Slack."""
    with Receiver((200, {}, b"<html>log in</html>")) as receiver:
        assert isinstance(failure_of(notifier(receiver, kind="slack")), RetryableError)


def test_an_answer_is_not_repeated_to_people():
    """A server that echoes the address does not get it into our texts."""
    with Receiver((500, {}, b"no route to /geheim"), (400, {}, b"no /geheim")) as receiver:
        assert isinstance(failure_of(notifier(receiver, kind="slack")), RetryableError)
        assert isinstance(failure_of(notifier(receiver, kind="slack")), PermanentError)


def drip(first, then, stop):
    """Answer with `first`, then one byte of `then` every 50 ms until the test is over."""

    def answer(handler):
        with contextlib.suppress(OSError):
            handler.wfile.write(first)
            while not stop.wait(0.05):
                handler.wfile.write(then)

    return answer


def test_a_server_that_answers_byte_by_byte_is_left():
    """The whole exchange has an end, though every single read is quick."""
    stop = threading.Event()
    with Receiver(drip(b"HTTP/1.1 200 OK\r\n", b"X", stop)) as receiver:
        started = time.monotonic()
        error = failure_of(notifier(receiver, kind="slack", whole_s=0.6))
        assert time.monotonic() - started < 3.0
        stop.set()
    assert isinstance(error, RetryableError)
    assert "in time" in str(error)


@pytest.mark.parametrize(("kind", "sent"), [("slack", False), ("webhook", True)])
def test_a_body_without_end_counts_by_its_status_only(kind, sent):
    """A generic receiver has confirmed with its 200; Slack confirms only with its word."""
    stop = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"
    with Receiver(drip(head, b"X", stop)) as receiver:
        notify = notifier(receiver, kind=kind, whole_s=0.6)
        if sent:
            assert notify(announcement())[0].tries == 1
        else:
            assert isinstance(failure_of(notify), RetryableError)
        stop.set()


def test_a_server_that_says_nothing_is_left():
    """No answer within the read limit: later again."""
    stop = threading.Event()
    with Receiver(lambda _: stop.wait(10)) as receiver:
        error = failure_of(notifier(receiver, read_s=0.3))
        stop.set()
    assert isinstance(error, RetryableError)


def test_a_server_that_hangs_up_is_tried_again():
    """No answer at all, not even a status."""
    with Receiver(lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)) as receiver:
        assert isinstance(failure_of(notifier(receiver)), RetryableError)


def test_connection_refused_is_tried_again_and_named():
    """A receiver that is down: the system's word for it, and the schedule's delay."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    error = failure_of(notifier(f"http://127.0.0.1:{port}/geheim"))
    assert isinstance(error, RetryableError)
    assert str(error) == "no connection: Connection refused"


def test_netrc_and_environment_are_never_used(tmp_path, monkeypatch):
    """No password from ~/.netrc is attached, and no proxy of the environment is asked."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password hunter2\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Receiver() as receiver:
        notifier(receiver)(announcement())
        assert "authorization" not in receiver.wait_for(1)[0]["headers"]


def test_the_configured_proxy_is_used():
    """Where the way out leads through a proxy, it gets the whole address."""
    with Receiver() as proxy:
        notifier("http://receiver.invalid/geheim", proxy=proxy.url(""))(announcement())
        assert proxy.wait_for(1)[0]["path"] == "http://receiver.invalid/geheim"


def test_a_proxy_that_is_down_is_named_without_its_password():
    """The proxy's address may hold a password too."""
    error = failure_of(notifier("http://receiver.invalid/geheim", proxy="http://u:geheim@127.0.0.1:9"))
    assert isinstance(error, RetryableError)
    assert "proxy" in str(error)


def test_no_address_in_the_log_even_at_debug(caplog):
    """The HTTP library's own debug lines, and its warning about broken headers, name the address: they stay out."""
    caplog.set_level(logging.DEBUG)
    with Receiver((503, {}, b""), lambda handler: handler.wfile.write(b"HTTP/1.1 500 No\r\nbroken")) as receiver:
        failure_of(notifier(receiver))
        failure_of(notifier(receiver))
        notifier(receiver)(announcement())
    assert "geheim" not in caplog.text


@pytest.fixture
def certificate(tmp_path):
    """Make a certificate for 127.0.0.1 that nobody knows."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def secured(receiver, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
    return f"https://127.0.0.1:{receiver.port}/geheim"


def test_certificates_are_checked_against_the_channels_own_file(certificate):
    """An unknown certificate is not accepted; with its authority as `ca_file` it is."""
    with Receiver() as receiver:
        url = secured(receiver, certificate)
        error = failure_of(notifier(url))
        assert isinstance(error, RetryableError)
        assert "certificate" in str(error)
        assert notifier(url, ca_file=certificate[1])(announcement())[0].tries == 1


def test_a_drip_under_tls_is_left_too(certificate):
    """The end of the whole exchange holds for encrypted connections."""
    stop = threading.Event()
    with Receiver(drip(b"HTTP/1.1 200 OK\r\n", b"X", stop)) as receiver:
        url = secured(receiver, certificate)
        started = time.monotonic()
        error = failure_of(notifier(url, ca_file=certificate[1], whole_s=0.8))
        assert time.monotonic() - started < 3.0
        stop.set()
    assert isinstance(error, RetryableError)


def test_a_missing_ca_file_is_named_and_tried_again(tmp_path):
    """The disk with the certificates may come back."""
    error = failure_of(notifier("https://127.0.0.1:9/geheim", ca_file=tmp_path / "none.pem"))
    assert isinstance(error, RetryableError)
    assert "ca_file" in str(error)


def test_no_thread_and_no_connection_is_left_behind():
    """A hundred deliveries, good and bad, leave nothing open."""
    before = threading.active_count()
    with Receiver(*[(503, {}, b"")] * 10) as receiver:
        notify = notifier(receiver)
        for number in range(30):
            with contextlib.suppress(RetryableError):
                notify(announcement(key=f"key-{number}"))
    deadline = time.monotonic() + 5.0
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_the_receiver_runs_as_a_program(tmp_path):
    """It prints its port, answers `200 ok`, and appends what it got as JSON lines."""
    file = tmp_path / "out.jsonl"
    script = Path(__file__).parents[1] / "webhook_receiver.py"
    command = [sys.executable, str(script), "--port", "0", "--file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            notifier(f"http://127.0.0.1:{port}/a", kind="slack")(announcement())
            notifier(f"http://127.0.0.1:{port}/b", kind="webhook")(announcement(title="zwei 车"))
        finally:
            process.terminate()
    first, second = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    assert (first["path"], second["path"]) == ("/a", "/b")
    assert second["body"]["data"]["title"] == "zwei 车"
