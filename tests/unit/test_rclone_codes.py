"""What rclone says, as causes: texts of rclone 1.60 and of S3 servers, as they were seen."""

from __future__ import annotations

import pytest

from supervisor.core.backups import causes
from supervisor.effects.backup.targets import rclone_codes

SAID = (
    (1, "auth", "Failed to lsjson: error in ListJSON: InvalidAccessKeyId: The AWS Access Key Id you provided …"),
    (1, "auth", "Failed to copy: SignatureDoesNotMatch: Check your key and signing method.\n\tstatus code: 403"),
    (1, "permission", "Failed to copy: AccessDenied: Access Denied\n\tstatus code: 403, request id: , host id: "),
    (
        1,
        "absent",
        "ERROR : a.txt: Failed to copy: NoSuchBucket: The specified bucket does not exist\n\tstatus code: 404",
    ),
    (3, "absent", "Failed to lsjson: error in ListJSON: directory not found"),
    (1, "absent", 'Failed to create file system for "x:b": didn\'t find section in config file'),
    (1, "unreachable", "caused by: dial tcp 127.0.0.1:1: connect: connection refused"),
    (1, "unreachable", "dial tcp: lookup nosuchhost.invalid on 10.0.0.1:53: no such host"),
    (1, "host-key", "Get https://s3.local/: x509: certificate signed by unknown authority"),
    (1, "timeout", "dial tcp 192.0.2.1:443: i/o timeout"),
    (1, "full", "XMinioStorageFull: Storage backend has reached its minimum free drive threshold."),
    (1, "quota", "QuotaExceeded: Bucket quota exceeded"),
    (1, "protocol", "Failed to copy: RequestError: send request failed caused by: EOF"),
    (6, "refused", "a.txt: Source and destination exist but do not match: immutable file modified"),
    (5, "protocol", "something that passes"),
    (10, "timeout", ""),
    (7, "failed", "something that stays"),
    (1, "failed", ""),
)


@pytest.mark.parametrize(("code", "cause", "text"), SAID)
def test_each_text_has_its_cause(code, cause, text):
    """The cause is one that people are told about, and the text says why."""
    found, said = rclone_codes.cause_of(code, text.splitlines())
    assert found == cause
    assert found in causes.KINDS
    assert said


def test_log_lines_are_told_as_words():
    """Of a JSON log the message and what it is about; statistics are no words; a date is not repeated."""
    line = '{"level":"error","msg":"immutable file modified","object":"a.txt","objectType":"*s3.Object"}'
    assert rclone_codes.words(line) == "a.txt: immutable file modified"
    assert rclone_codes.words("2026/11/22 18:43:00 ERROR : a.txt: Failed to copy: x") == "a.txt: Failed to copy: x"
    assert not rclone_codes.words('{"msg":"x","stats":{"bytes":5}}')
    assert rclone_codes.sent_bytes('{"msg":"x","stats":{"bytes":5}}') == 5
    assert rclone_codes.sent_bytes(line) is None


def test_a_signature_in_an_address_is_not_told():
    """What stands behind the question mark of an address may let whoever reads it in."""
    _, said = rclone_codes.cause_of(1, ['Get "https://s3.local/b/k?X-Amz-Signature=abc": EOF'])
    assert "abc" not in said
    assert "https://s3.local/b/k" in said
