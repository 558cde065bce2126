"""Downloads from a local server: what arrives is right, what is there is not asked for again, and faults lose
nothing.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from standins import jpeg, served

from sparc_lib.data.download import HashError, RemoteFile, obtain
from sparc_lib.data.images import RemoteImage, absent, fetch_images, save_missing
from sparc_lib.data.web import Client

MD5_OF_HELLO = "md5:5d41402abc4b2a76b9719d911017c592"


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server over tmp_path/web with 30 images in it and a file that says hello."""
    monkeypatch.setattr("sparc_lib.data.download.Client", lambda threads: Client(threads, pause=0.01))
    (tmp_path / "web/train").mkdir(parents=True)
    for i in range(30):
        (tmp_path / f"web/train/{i:02d}.jpg").write_bytes(jpeg(i))
    (tmp_path / "web/hello.txt").write_text("hello")
    with served(tmp_path / "web") as (url, web):
        web.url, web.root = url, tmp_path / "web"
        yield web


def images(web, folder, n=30):
    return [RemoteImage(folder / f"{i:02d}.jpg", f"{web.url}/train/{i:02d}.jpg") for i in range(n)]


def same(web, folder, n=30):
    return all(
        (folder / f"{i:02d}.jpg").read_bytes() == (web.root / f"train/{i:02d}.jpg").read_bytes()
        for i in range(n)
    )


def fetch(wanted, attempts=4, timeout=30):
    return fetch_images(wanted, Client(3, attempts, timeout, pause=0.01), progress=False)


@pytest.mark.parametrize("known", [None, MD5_OF_HELLO])
def test_a_file_is_fetched_once_and_read_once(web, tmp_path, known, monkeypatch):
    file = RemoteFile("hello.txt", f"{web.url}/hello.txt", known)
    first = obtain(tmp_path / "got", file)
    assert first.path.read_text() == "hello" and web.asked["/hello.txt"] == 1
    monkeypatch.setattr("sparc_lib.files.sha256", lambda path: pytest.fail("was read again"))
    assert obtain(tmp_path / "got", file) == first and web.asked["/hello.txt"] == 1


def test_a_file_without_a_published_hash_must_stay_what_it_was(web, tmp_path):
    file, got = RemoteFile("hello.txt", f"{web.url}/hello.txt"), tmp_path / "got"
    obtain(got, file)
    (got / "hello.txt").write_text("hellp")
    with pytest.raises(HashError, match=r"hello.txt: its sha256 is .* recorded .* Delete the file"):
        obtain(got, file)
    (got / "hello.txt").unlink()
    web.altered["/hello.txt"] = b"another text"
    with pytest.raises(HashError, match="what was downloaded has not the hash sha256:"):
        obtain(got, file)
    assert not (got / "hello.txt").exists()
    del web.altered["/hello.txt"]
    assert obtain(got, file).path.read_text() == "hello"


def test_a_file_with_a_published_hash_is_held_against_it(web, tmp_path):
    file = RemoteFile("hello.txt", f"{web.url}/hello.txt", MD5_OF_HELLO)
    web.altered["/hello.txt"] = b"hel"
    with pytest.raises(HashError, match="has not the hash md5:5d41"):
        obtain(tmp_path / "got", file)
    assert list((tmp_path / "got").glob("*hello*")) == []
    (tmp_path / "got/hello.txt").write_text("hel")  # copied there by hand
    with pytest.raises(
        HashError, match=r"not the published md5:5d41\S+ \(truncated or replaced\); delete it"
    ):
        obtain(tmp_path / "got", file)


def test_a_cut_connection_is_tried_again_and_leaves_no_half_file(web, tmp_path):
    file = RemoteFile("hello.txt", f"{web.url}/hello.txt")
    web.cut["/hello.txt"] = 99
    with pytest.raises(FileNotFoundError, match="hello.txt could not be fetched"):
        obtain(tmp_path / "got", file)
    assert [p.name for p in (tmp_path / "got").iterdir()] == ["hashes.json.lock"]
    web.cut.clear()
    assert obtain(tmp_path / "got", file).path.read_text() == "hello"


def test_offline_names_the_file_and_its_source(web, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARC_OFFLINE", "1")
    with pytest.raises(
        FileNotFoundError,
        match=r"hello.txt: missing, and the network is not to be used.*Copy it there from http",
    ):
        obtain(tmp_path / "got", RemoteFile("hello.txt", f"{web.url}/hello.txt"))
    assert not web.asked


def test_a_broken_record_says_what_to_do(web, tmp_path):
    obtain(tmp_path, RemoteFile("hello.txt", f"{web.url}/hello.txt"))
    (tmp_path / "hashes.json").write_text("{")
    with pytest.raises(HashError, match="hashes.json: unreadable .* delete it"):
        obtain(tmp_path, RemoteFile("hello.txt", f"{web.url}/hello.txt"))


def test_images_arrive_and_are_not_asked_for_again(web, tmp_path):
    wanted = images(web, tmp_path / "train")
    fetch(wanted[:10])
    report = fetch(wanted + wanted)
    assert (report.n_wanted, report.n_present, report.n_fetched, report.missing) == (30, 10, 20, ())
    assert same(web, tmp_path / "train") and set(web.asked.values()) == {1}
    assert fetch(wanted).n_fetched == 0 and set(web.asked.values()) == {1} and absent(wanted) == []


def test_faults_are_retried_and_what_is_missing_is_listed(web, tmp_path):
    web.status["/train/03.jpg"] = (503, 2)
    web.cut["/train/04.jpg"] = 2
    web.status["/train/05.jpg"] = (500, 99)
    (web.root / "train/06.jpg").unlink()
    report = fetch(images(web, tmp_path / "train"), attempts=3)
    assert (report.n_fetched, [m.path.name for m in report.missing]) == (28, ["05.jpg", "06.jpg"])
    assert [(m.gone, m.reason) for m in report.missing] == [(False, "HTTP 500"), (True, "HTTP 404")]
    assert (web.asked["/train/03.jpg"], web.asked["/train/05.jpg"], web.asked["/train/06.jpg"]) == (3, 3, 1)
    save_missing(report, tmp_path / "missing.csv")
    assert (tmp_path / "missing.csv").read_text().splitlines()[1].startswith("05.jpg,http")
    assert sorted(p.name for p in (tmp_path / "train").glob("*.partial")) == []
    web.status.clear()
    assert fetch(images(web, tmp_path / "train")).n_fetched == 1


PAGE = b"<html><body>No such picture</body></html>"


def test_a_page_in_place_of_an_image_is_no_photograph(web, tmp_path):
    """Answered with status 200: known by its content type, by its content, or by where it ends."""
    web.altered["/train/03.jpg"], web.types["/train/03.jpg"] = PAGE, "text/html; charset=utf-8"
    web.altered["/train/04.jpg"] = PAGE
    web.altered["/train/05.jpg"] = (web.root / "train/05.jpg").read_bytes()[:300]
    web.altered["/train/06.jpg"] = b""
    report = fetch(images(web, tmp_path / "train"))
    assert {m.path.name: m.reason for m in report.missing} == {
        "03.jpg": "a page (text/html; charset=utf-8), not an image",
        "04.jpg": "not an image (UnidentifiedImageError)",
        "05.jpg": "not an image (OSError)",
        "06.jpg": "not an image (UnidentifiedImageError)",
    }
    assert not any(m.gone or m.path.exists() for m in report.missing)
    web.altered.clear(), web.types.clear()
    assert fetch(images(web, tmp_path / "train")).n_fetched == 4 and same(web, tmp_path / "train")


def test_a_placeholder_picture_is_no_photograph(web, tmp_path):
    """The same bytes for many images; two photographs may be alike."""
    for i in (*range(3, 12), 20):
        web.altered[f"/train/{i:02d}.jpg"] = jpeg(999)
    web.altered["/train/21.jpg"] = web.altered["/train/22.jpg"] = jpeg(998)
    report = fetch(images(web, tmp_path / "train"))
    assert sorted(m.path.name for m in report.missing) == [f"{i:02d}.jpg" for i in (*range(3, 12), 20)]
    assert report.n_fetched == 20 and all("a placeholder" in m.reason for m in report.missing)
    assert sorted(path.name for path in (tmp_path / "train").glob("*.jpg")) == [
        f"{i:02d}.jpg" for i in range(30) if i not in (*range(3, 12), 20)
    ]


def test_a_server_that_drips_is_given_up(web, tmp_path):
    """A byte now and then keeps every single wait short; what counts is how much has come in all."""
    web.drip = 0.1
    started = time.monotonic()
    report = fetch(images(web, tmp_path / "train", 2), attempts=2, timeout=0.5)
    assert time.monotonic() - started < 20 and len(report.missing) == 2
    assert all(m.reason.endswith(" s") and " bytes in " in m.reason for m in report.missing)
    web.drip = 0
    assert fetch(images(web, tmp_path / "train", 2)).n_fetched == 2


@pytest.mark.parametrize(
    "address, words",
    [
        ("/hallo.txt", "could not be fetched .HTTP 404.* Check the connection and the address"),
        ("/page", "answers with a web page. Mend the address .of a mirror: source.json in "),
    ],
)
def test_a_mistyped_address_is_reported_as_such(web, tmp_path, address, words):
    web.altered["/page"], web.types["/page"] = PAGE, "text/html"
    with pytest.raises(FileNotFoundError, match=f"hello.txt: missing, and http.*{address} {words}"):
        obtain(tmp_path / "got", RemoteFile("hello.txt", web.url + address))
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["hashes.json.lock"]
    with pytest.raises(FileNotFoundError, match="htp://x could not be fetched .*No connection adapters"):
        obtain(tmp_path / "got", RemoteFile("hello.txt", "htp://x"))


def test_a_server_out_of_reach_ends_the_attempt_soon(tmp_path):
    wanted = [RemoteImage(tmp_path / f"{i}.jpg", f"http://127.0.0.1:9/{i}.jpg") for i in range(1000)]
    with pytest.raises(ConnectionError, match="200 images failed in a row"):
        fetch(wanted, attempts=1)


CHILD = textwrap.dedent("""
    import resource, signal, sys
    from pathlib import Path
    from sparc_lib.data.images import RemoteImage, fetch_images
    from sparc_lib.data.web import Client
    url, folder, n, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    images = [RemoteImage(folder / f"{i:02d}.jpg", f"{url}/train/{i:02d}.jpg") for i in range(n)]
    fetch_images(images, Client(2), progress=False)
""")


def child(web, folder, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, web.url, str(folder), "30", str(limit)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_kill_9_in_the_middle_and_again(web, tmp_path):
    web.delay, folder = 0.03, tmp_path / "train"
    for goal in (6, 14):
        process = child(web, folder)
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*.jpg"))) < goal:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)  # answers under way end
        (folder / "29.jpg.partial").write_bytes(b"torn")
    finished = {f"/train/{path.name}" for path in folder.glob("*.jpg")}
    before = dict(web.asked)
    web.delay = 0
    report = fetch(images(web, folder))
    assert 14 <= report.n_present == len(finished) < 30
    assert all(web.asked[path] == before[path] for path in finished)
    assert same(web, folder) and not list(folder.glob("*.partial"))


def test_a_full_disk_keeps_what_was_fetched(web, tmp_path):
    sizes = [(web.root / f"train/{i:02d}.jpg").stat().st_size for i in range(30)]
    (web.root / "train/20.jpg").write_bytes(jpeg(0, 400, 300))  # the one that does not fit
    process = child(web, tmp_path / "train", max(sizes) + 1)
    _, error = process.communicate(timeout=60)
    assert (
        process.returncode == 1 and "20.jpg: the disk is full" in error and "finished parts are kept" in error
    )
    got = {path.name for path in (tmp_path / "train").glob("*.jpg")}
    assert "20.jpg" not in got and len(got) >= 18 and not list((tmp_path / "train").glob("*.partial"))
    report = fetch(images(web, tmp_path / "train"))
    assert report.n_present == len(got) and same(web, tmp_path / "train")


def test_a_full_disk_while_a_file_is_fetched(web, tmp_path):
    (web.root / "big.bin").write_bytes(bytes(300_000))
    code = textwrap.dedent(f"""
        import resource, signal
        from sparc_lib.data.download import RemoteFile, obtain
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        obtain({str(tmp_path / "got")!r}, RemoteFile("big.bin", "{web.url}/big.bin"))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 1 and "big.bin: the disk is full" in done.stderr
    assert [p.name for p in (tmp_path / "got").iterdir()] == ["hashes.json.lock"]
    assert (
        obtain(tmp_path / "got", RemoteFile("big.bin", f"{web.url}/big.bin")).path.stat().st_size == 300_000
    )
    assert json.loads((tmp_path / "got/hashes.json").read_text())["big.bin"]["bytes"] == 300_000


def test_two_downloads_into_one_folder_do_not_meet(web, tmp_path):
    web.delay = 0.05
    process = child(web, tmp_path / "train")
    while not list((tmp_path / "train").glob("*.jpg")):
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="another download is at work here"):
        fetch(images(web, tmp_path / "train"))
    process.kill()
    process.wait()
