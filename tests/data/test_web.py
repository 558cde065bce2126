"""What servers answer in place of the thing itself: that they are busy, a packed file, a page."""

import gzip
import io
import time

import pytest
from standins import served

from sparc_lib.data import web as library
from sparc_lib.data.download import RemoteFile, obtain
from sparc_lib.data.web import Client


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server over a folder with a file that says hello."""
    monkeypatch.setattr("sparc_lib.data.download.Client", lambda threads: Client(threads, pause=0.01))
    (tmp_path / "web").mkdir()
    (tmp_path / "web/hello.txt").write_text("hello")
    with served(tmp_path / "web") as (url, web):
        web.url = url
        yield web


@pytest.mark.parametrize("asked, waited", [("1", 1), ("3600", 2), ("-5", 0), ("soon", 0)])
def test_a_busy_server_is_left_alone_as_long_as_it_asks_within_reason(asked, waited, web, monkeypatch):
    monkeypatch.setattr(library, "LONGEST_WAIT", 2)
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    web.status["/hello.txt"] = (429, 1)
    web.headers["/hello.txt"] = {"Retry-After": asked}
    got = io.BytesIO()
    Client(1, pause=0).get(f"{web.url}/hello.txt", got)
    assert got.getvalue() == b"hello" and max(waits) == waited


def test_a_packed_file_is_not_kept_for_the_file_itself(web, tmp_path):
    web.altered["/hello.txt"] = gzip.compress(b"hello")
    web.headers["/hello.txt"] = {"Content-Encoding": "gzip"}
    with pytest.raises(FileNotFoundError, match="could not be fetched .sent as gzip, not as it is"):
        obtain(tmp_path / "got", RemoteFile("hello.txt", f"{web.url}/hello.txt"))
    assert not (tmp_path / "got/hello.txt").exists()


@pytest.mark.parametrize("kind", ["Text/HTML; charset=utf-8", "application/xhtml+xml", "text/plain"])
@pytest.mark.parametrize("page", [b"<html>log in</html>", b"\xef\xbb\xbf\r\n<!DOCTYPE HTML>"])
def test_a_page_is_no_file_whatever_it_is_called(page, kind, web, tmp_path):
    web.altered["/hello.txt"], web.types["/hello.txt"] = page, kind
    with pytest.raises(FileNotFoundError, match="answers with a web page. Mend the address"):
        obtain(tmp_path / "got", RemoteFile("hello.txt", f"{web.url}/hello.txt"))
    assert not (tmp_path / "got/hello.txt").exists()
