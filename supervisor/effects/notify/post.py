"""One HTTP POST to an address that the administrator wrote, with nothing taken from anywhere else.

No redirects (they would carry the message on to whoever the answer names), no proxies, certificates or passwords
from the environment or ~/.netrc, and an end for every try: a server that answers byte by byte ends it too. What
is returned or raised never holds the address, the secret or the answer's text: an address is often the password.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from dataclasses import dataclass, field
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from supervisor.errors import PermanentError, RetryableError

if TYPE_CHECKING:
    import requests

CONNECT_S = 5.0
READ_S = 15.0
WHOLE_S = 30.0
ANSWER_MAX_BYTES = 4096
RETRY_AFTER_MAX_S = 24 * 3600.0


@dataclass(frozen=True)
class Reply:
    """What a server answered. `retry_after_s` is 0.0 where it does not say."""

    status: int
    body: bytes = b""
    retry_after_s: float = 0.0

    @property
    def redirects(self) -> bool:
        """Return whether the server points elsewhere."""
        return 300 <= self.status < 400

    @property
    def refuses(self) -> bool:
        """Return whether it is this message that the server will never take.

        401, 403, 404 and the like are about the way there (a proxy, a deploy, a captive portal) and may pass.
        """
        return self.status in {400, 411, 413, 414, 415, 422, 431}


@dataclass(frozen=True)
class Line:
    """How to reach a channel: proxy (with its password, if any) and the file of its certificate authorities."""

    url: str = field(repr=False)
    proxy: str = field(default="", repr=False)
    ca_file: str = ""


def post(line: Line, body: bytes, headers: dict[str, str], whole_s: float = WHOLE_S, read_s: float = READ_S) -> Reply:
    """Send a JSON body and return the answer, within `whole_s` seconds.

    Raises RetryableError where no answer came, PermanentError where the channel's own settings are unusable.
    """
    if not line.url.lower().startswith(("https://", "http://")):
        raise PermanentError("the channel's url must begin with https:// or http://")
    import requests

    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its debug lines and warnings name the address
    guard = _Guard(whole_s)
    failure: Exception
    try:
        return _exchange(line, body, headers, read_s, guard)
    except (requests.exceptions.RequestException, OSError, UnicodeError, ValueError) as error:
        failure = error
    finally:
        guard.end()
    raise _explained(failure, timed_out=guard.struck)  # out here: no chain leads back to an address


def _exchange(line: Line, body: bytes, headers: dict[str, str], read_s: float, guard: _Guard) -> Reply:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        adapter = _guarded_adapter(guard)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        with session.post(
            line.url,
            data=body,
            headers={"Content-Type": "application/json", "User-Agent": "yolo-supervisor", **headers},
            timeout=(CONNECT_S, read_s),
            allow_redirects=False,
            stream=True,
            proxies={"http": line.proxy, "https": line.proxy} if line.proxy else {},
            verify=line.ca_file or True,
        ) as answer:
            if guard.struck:  # cut among the headers: what looks like an answer is none
                raise requests.exceptions.ReadTimeout
            asked_s = retry_after_s(answer.headers.get("Retry-After", ""), time.time())
            return Reply(answer.status_code, _beginning(answer), asked_s)


def _beginning(answer: requests.Response) -> bytes:
    """Return the first 4 kB of an answer, or what came of them: the status counts even if the rest is late."""
    import requests

    text = b""
    with contextlib.suppress(requests.exceptions.RequestException):
        for piece in answer.iter_content(ANSWER_MAX_BYTES):
            text += piece
            if len(text) >= ANSWER_MAX_BYTES:
                break
    return text[:ANSWER_MAX_BYTES]


def retry_after_s(text: str, now: float) -> float:
    """Return the seconds that a Retry-After header asks for (a number, or a date), at most a day; 0.0 for none."""
    seconds = 0.0
    if text.strip().isdecimal():
        seconds = float(text)
    elif text:
        with contextlib.suppress(ValueError, OverflowError):
            until = parsedate_to_datetime(text)
            seconds = until.replace(tzinfo=until.tzinfo or timezone.utc).timestamp() - now
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S)


class _Guard:
    """Cuts the connection when the time for the whole exchange is over; time-outs of sockets count single reads."""

    def __init__(self, whole_s: float) -> None:
        self.struck = False
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._timer = threading.Timer(whole_s, self._strike)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        """Take a handle of its own on the connection: TLS takes the original away."""
        with self._lock:
            self._line = connected.dup()
        if self.struck:
            self._strike()

    def end(self) -> None:
        """Stand down."""
        self._timer.cancel()
        with self._lock:
            if self._line is not None:
                self._line.close()
            self._line = None

    def _strike(self) -> None:
        self.struck = True
        with self._lock, contextlib.suppress(OSError):  # ended meanwhile
            if self._line is not None:
                self._line.shutdown(socket.SHUT_RDWR)


def _guarded_adapter(guard: _Guard) -> requests.adapters.HTTPAdapter:
    """Return an adapter whose connections are shown to the guard as soon as they stand."""
    import requests.adapters
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class PlainConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            guard.watch(connected)
            return connected

    class SecureConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            guard.watch(connected)
            return connected

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    pools = {"http": PlainPool, "https": SecurePool}

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(*args, **kwargs)
            manager.pool_classes_by_scheme = pools
            return manager

    return Adapter()


def _explained(error: Exception, *, timed_out: bool) -> RetryableError | PermanentError:
    """Return the failure in words of our own: the library's text repeats the address."""
    from requests import exceptions

    if timed_out or isinstance(error, exceptions.ReadTimeout):
        return RetryableError("no complete answer in time", 0.0)
    if isinstance(error, exceptions.SSLError):
        return RetryableError("the server's certificate was not accepted (ca_file?)", 0.0)
    kinds: tuple[tuple[type[Exception], str], ...] = (
        (exceptions.ConnectTimeout, "no connection in time"),
        (exceptions.ProxyError, "the proxy did not connect"),
        (exceptions.ConnectionError, "no connection"),
        (exceptions.ChunkedEncodingError, "the answer broke off"),
    )
    for kind, text in kinds:
        if isinstance(error, kind):
            return RetryableError(text + _reason(error), 0.0)
    if isinstance(error, exceptions.RequestException | UnicodeError | ValueError):
        return PermanentError("the channel's url, proxy or secret cannot be used as written")
    return RetryableError(f"the channel's ca_file cannot be used{_reason(error)}", 0.0)


def _reason(error: BaseException | None) -> str:
    """Return the system's own word for the failure (`Connection refused`), which never holds an address."""
    for _ in range(10):
        if isinstance(error, OSError) and error.strerror and error.errno and not error.filename:
            return f": {error.strerror}"
        nested = getattr(error, "reason", None) or (error.args[0] if error is not None and error.args else None)
        following = error.__cause__ or error.__context__ if error is not None else None
        error = nested if isinstance(nested, BaseException) else following
    return ""
