"""Reading from the web: every request is tried again, and given up when the server only drips."""

from __future__ import annotations

import time
from typing import BinaryIO

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

GONE = (403, 404, 410)  # a public bucket answers 403 for a key that is not there
FAILED = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)  # all that `Client.get` raises for the server
LONGEST_WAIT = 60  # seconds before the next attempt that a busy server may ask for
CHUNK = 2**16  # bytes
SLOWEST = 4096  # bytes per second; a server that sends less is as good as silent


class GoneError(requests.HTTPError):
    """The server says that it has no such thing: to ask again is in vain."""


def wait_asked(answer: requests.Response | None) -> float:
    """Seconds that a busy server asks to be left alone, at most LONGEST_WAIT; 0 if it asks for none."""
    try:
        asked = Retry().get_retry_after(answer.raw) if answer is not None else None
    except urllib3.exceptions.InvalidHeader:
        asked = None
    return min(asked or 0, LONGEST_WAIT)


class Client:
    """One pool of connections for `threads` threads.

    timeout: seconds without a byte, and seconds from the start after which an answer must flow. pause:
    seconds before the third attempt, doubled from one to the next; the second comes at once.
    """

    def __init__(self, threads: int = 16, attempts: int = 4, timeout: float = 30, pause: float = 1.0):
        self.threads, self.timeout = threads, timeout
        self.retries = Retry(attempts - 1, backoff_factor=pause)
        self.session = requests.Session()
        self.session.headers["Accept-Encoding"] = "identity"  # Content-Length is that of the thing itself
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=threads))

    def get(self, url: str, target: BinaryIO) -> str:
        """Write what `url` answers to `target`; return its content type, "" if the server names none.

        Raises GoneError, or the last of the errors in FAILED when all attempts are used up.
        """
        retries = self.retries
        while True:
            target.seek(0)
            target.truncate()
            try:
                return self._get_once(url, target)
            except (GoneError, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL):
                raise
            except FAILED as error:
                try:
                    retries = retries.increment("GET", url, error=error)
                except urllib3.exceptions.MaxRetryError:
                    raise error from None
                retries.sleep()
                time.sleep(wait_asked(getattr(error, "response", None)))

    def _get_once(self, url: str, target: BinaryIO) -> str:
        started, received = time.monotonic(), 0
        with self.session.get(url, timeout=self.timeout, stream=True) as answer:
            if answer.status_code in GONE:
                raise GoneError(f"HTTP {answer.status_code}")
            if answer.status_code != 200:
                raise requests.HTTPError(f"HTTP {answer.status_code}", response=answer)
            packed = answer.headers.get("Content-Encoding", "identity")
            if packed != "identity":  # what was asked for; else the bytes are not those of the thing itself
                raise requests.exceptions.ContentDecodingError(f"sent as {packed}, not as it is")
            while chunk := answer.raw.read1(CHUNK):
                target.write(chunk)
                received += len(chunk)
                seconds = time.monotonic() - started
                if seconds > self.timeout and received < SLOWEST * seconds:
                    raise requests.Timeout(f"{received} bytes in {seconds:.0f} s")
            return answer.headers.get("Content-Type", "")
