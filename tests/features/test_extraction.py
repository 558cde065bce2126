"""Extraction: right features in the right rows, and nothing lost when the machine fails."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from PIL import Image

from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.features import blocks
from sparc_lib.features.encoders import ClipEncoder, DinoEncoder
from sparc_lib.features.extraction import Extraction, encode_blocks, extract, keep_blocks
from sparc_lib.files import DiskFullError
from sparc_lib.paths import WEIGHTS
from sparc_lib.store.format import EncoderStamp
from sparc_lib.store.reader import FeatureStore, StoreError


class Pictures:
    """Small noisy pictures kept as PNG bytes; every third pair shares its image with the pair before."""

    name, split, classes = "pictures", "test", ["even", "odd"]

    def __init__(self, n=40, size=28, broken=()):
        self.image_ids = [f"image-{i - (i % 3 == 2)}" for i in range(n)]
        self.ids = [f"pair-{i}" for i in range(n)]
        self.captions = ["a brown dog" if i % 2 else f"a cat on the grass {i}" for i in range(n)]
        self.labels = sp.csr_array(np.eye(2, dtype=bool)[np.arange(n) % 2])
        self.size, self.broken, self.opened = size, set(broken), []

    def __len__(self):
        return len(self.ids)

    def image(self, i):
        self.opened.append(i)
        seed = int(self.image_ids[i].split("-")[1])
        data = io.BytesIO()
        Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (self.size, self.size, 3), np.uint8)
        ).save(data, "PNG")
        raw = data.getvalue()
        return Image.open(io.BytesIO(raw[: len(raw) // 2] if i in self.broken else raw))


class LinearEncoder:
    """A fast stand-in for both encoders: fixed random projections of pixels and letters."""

    def __init__(self, dim, version="1"):
        self.dim, self.revision, self.fingerprint = dim, f"rev-{version}", f"print-{dim}-{version}"
        self.device, self.calls = torch.device("cpu"), 0
        self.stamp = EncoderStamp("linear", self.revision, self.fingerprint)
        self.weight = torch.randn(64, dim, generator=torch.Generator().manual_seed(dim))

    def preprocess(self, image):
        return torch.from_numpy(np.array(image.resize((8, 8)))[None, ..., 0] / np.float32(255))

    def image_features(self, pixels):
        self.calls += 1
        return pixels.flatten(1) @ self.weight

    def tokenizer(self, texts):
        return torch.tensor([list(text.encode().ljust(64)[:64]) for text in texts])

    def token_features(self, tokens):
        return tokens / 255 @ self.weight


def run(out, dataset=None, dino=None, clip=None, batch_size=4, workers=0, progress=False):
    pair = dino or LinearEncoder(6), clip or LinearEncoder(5)
    return extract(Extraction(dataset or Pictures(), *pair, batch_size, workers, progress), out)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 8 images at a batch size of 4: the 27 pictures make four."""
    monkeypatch.setattr(blocks, "BATCHES", 2)


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def test_every_row_holds_its_own_features(tmp_path):
    data, dino, clip = Pictures(), LinearEncoder(6), LinearEncoder(5)
    store = run(tmp_path / "out", data, dino, clip)
    assert len(data.opened) == len(set(data.image_ids)) == 27  # each image once, though some serve two pairs
    for i in (0, 1, 2, 17, 39):
        image = data.image(i).convert("RGB")
        for name, encoder in (("dino", dino), ("clip_img", clip)):
            expected = encoder.image_features(encoder.preprocess(image)[None])[0]
            np.testing.assert_allclose(store[name][i], expected, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(
            store["clip_txt"][i],
            clip.token_features(clip.tokenizer([data.captions[i]]))[0],
            rtol=2e-3,
            atol=2e-3,
        )
    assert (store.ids, store.image_ids, store.captions, store.classes) == (
        data.ids,
        data.image_ids,
        data.captions,
        data.classes,
    )
    np.testing.assert_array_equal(store.labels.toarray(), data.labels.toarray())
    assert store.manifest.streams[1].encoder == clip.stamp and store.manifest.skipped == ()
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out"]
    FeatureStore.open(tmp_path / "out", expect={"dino": "rev-1", "clip_txt": "rev-1"}).verify()


def test_real_encoders(tmp_path):
    from test_encoders import write_clip, write_dino

    (tmp_path / "dino").mkdir()
    dino, clip = (
        DinoEncoder(write_dino(tmp_path / "dino")),
        ClipEncoder(f"local-dir:{write_clip(tmp_path / 'clip')}"),
    )
    data = Pictures(9)
    store = extract(Extraction(data, dino, clip, batch_size=4, progress=False), tmp_path / "out")
    expected = clip.image_features(clip.preprocess(data.image(5))[None])[0]
    np.testing.assert_allclose(store["clip_img"][5], expected, rtol=2e-3, atol=2e-3)
    assert store.manifest.streams[0].encoder == dino.stamp and store.dims == {
        "dino": 32,
        "clip_img": 24,
        "clip_txt": 24,
    }


def test_workers_change_nothing(tmp_path, small_blocks):
    run(tmp_path / "one"), run(tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_bar_shows_rate_and_time_left(tmp_path, capsys):
    run(tmp_path / "out", progress=True)
    bar = capsys.readouterr().err
    assert "pictures/test" in bar and "27/27" in bar and "images/s" in bar and "<" in bar


def test_features_do_not_depend_on_what_shares_a_batch_or_a_block(tmp_path):
    """With the shipped encoders, whose arithmetic rounds differently in batches of another size."""
    pair = DinoEncoder(WEIGHTS / "dino"), ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}")
    few, more = (
        extract(Extraction(DrawnDataset("test", n), *pair, 16, progress=False), tmp_path / str(n))
        for n in (3, 37)
    )
    for stream in few.streams:
        np.testing.assert_array_equal(few[stream], more[stream][: len(few)])


def test_corrupt_images_are_skipped_and_listed(tmp_path, small_blocks):
    store = run(tmp_path / "out", Pictures(300, broken={1, 9}))  # of 200 images
    lost = {"pair-1", "pair-2", "pair-9"}  # pair 2 shares the image of pair 1
    whole = run(tmp_path / "whole", Pictures(300))
    kept = [i for i, name in enumerate(whole.ids) if name not in lost]
    assert store.ids == [whole.ids[i] for i in kept] and len(store) == 297
    for name in store.streams:
        np.testing.assert_array_equal(store[name], whole[name][kept])
    np.testing.assert_array_equal(store.labels.toarray(), whole.labels.toarray()[kept])
    assert [(s.image_id, s.ids) for s in store.manifest.skipped] == [
        ("image-1", ("pair-1", "pair-2")),
        ("image-9", ("pair-9",)),
    ]
    assert all("OSError" in s.reason or "SyntaxError" in s.reason for s in store.manifest.skipped)
    store.verify()


@pytest.mark.parametrize("broken", [{9}, set(range(40))])
def test_more_than_one_percent_of_unreadable_images_end_it_and_mended_ones_are_taken_up(
    tmp_path, small_blocks, broken
):
    with pytest.raises(StoreError, match=r"\d+ of 27 images cannot be read, the first is image-\d .*--fetch"):
        run(tmp_path / "out", Pictures(broken=broken))
    assert not (tmp_path / "out").exists()
    dino = LinearEncoder(6)
    run(tmp_path / "out", dino=dino), run(tmp_path / "whole")
    assert dino.calls == (2 if broken == {9} else 7)  # of one block, or of all four
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_image_mended_after_the_store_was_finished_costs_one_block(tmp_path, small_blocks):
    store = run(tmp_path / "out", Pictures(300, broken={9, 199}))
    task = Extraction(Pictures(300, broken={199}), LinearEncoder(6), LinearEncoder(5), 4, progress=False)
    unchanged = Extraction(Pictures(300, broken={9, 199}), LinearEncoder(6), LinearEncoder(5), 4)
    assert not keep_blocks(unchanged, store, tmp_path / "kept") and keep_blocks(
        task, store, tmp_path / "kept"
    )
    again = extract(task, tmp_path / "again", tmp_path / "kept")
    assert task.dino.calls == 2 and [skipped.image_id for skipped in again.manifest.skipped] == ["image-199"]
    run(tmp_path / "whole", Pictures(300, broken={199}))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_machine_is_no_corrupt_image(tmp_path, workers):
    data = Pictures()

    def image(i):
        raise OSError(errno.EMFILE, "Too many open files")

    data.image = image
    with pytest.raises(OSError, match=r"too many open files while images are read; allow more \(ulimit -n"):
        run(tmp_path / "out", data, workers=workers)


LIMITED = textwrap.dedent("""
    import resource, sys
    from test_extraction import Pictures, run
    soft, hard, workers = map(int, sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    run(sys.argv[1], Pictures(300), workers=workers)
""")


def as_child(code, *arguments):
    """A finished child process that runs the code and finds the tests' modules."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )


def test_few_open_files_are_a_sentence_and_a_soft_limit_is_raised(tmp_path):
    """As after `ulimit -n 64`; loaders that may not open files would stop answering."""
    refused = as_child(LIMITED, tmp_path / "refused", 64, 64, 2)
    assert (
        refused.returncode == 1 and "64 files may be open, loading images takes 96; allow" in refused.stderr
    )
    assert as_child(LIMITED, tmp_path / "raised", 64, 512, 2).returncode == 0
    run(tmp_path / "whole", Pictures(300))
    assert contents(tmp_path / "raised") == contents(tmp_path / "whole")


def test_nan_features_are_refused(tmp_path):
    broken = LinearEncoder(6)
    broken.weight[0, 0] = float("nan")
    with pytest.raises(StoreError, match="stream 'dino': .*NaN.*pair-0"):
        run(tmp_path / "out", dino=broken)
    assert not (tmp_path / "out").exists()


def test_a_finished_store_is_reused_and_never_mixed(tmp_path):
    run(tmp_path / "out")
    dino = LinearEncoder(6)
    run(tmp_path / "out", dino=dino)
    assert dino.calls == 0
    with pytest.raises(FileExistsError, match="another data set or encoder"):
        run(tmp_path / "out", dino=LinearEncoder(6, "2"))


def interrupt(monkeypatch, call, error):
    """Make the `call`-th saving of a block fail half-way; what is on the disk stays as it was."""
    real, count = np.savez, iter(range(1, 10**6))

    def savez(file, **arrays):
        if next(count) == call:
            file.write(b"PK")
            raise error
        return real(file, **arrays)

    monkeypatch.setattr(np, "savez", savez)


def test_disk_full_in_the_middle(tmp_path, monkeypatch, small_blocks):
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 3, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DiskFullError, match="000002.npz: the disk is full.*finished parts are kept"):
            run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    dino = LinearEncoder(6)
    run(tmp_path / "out", dino=dino)
    assert dino.calls == 3  # batches of the last two of four blocks
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("changed", ["encoder", "captions", "batch size", "nothing"])
def test_unfinished_work_counts_only_for_the_same_inputs(tmp_path, monkeypatch, small_blocks, changed):
    with monkeypatch.context() as patch:
        interrupt(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out")
    data, clip = Pictures(), LinearEncoder(5)
    if changed == "encoder":
        clip = LinearEncoder(5, "2")
        clip.weight = clip.weight + 1
    if changed == "captions":
        data.captions[0] = "another caption"
    batch_size = 5 if changed == "batch size" else 4
    dino = LinearEncoder(6)
    run(tmp_path / "out", data, dino, clip, batch_size)
    assert (dino.calls == 3) == (changed == "nothing")
    fresh = run(tmp_path / "fresh", data, LinearEncoder(6), clip, batch_size)
    assert contents(tmp_path / "out") == contents(fresh.directory)


@pytest.mark.parametrize("harm", ["deleted", "cut", "bits flipped", "of other data", "empty"])
def test_a_harmed_block_is_computed_again_and_never_taken(tmp_path, small_blocks, harm):
    """Not rows of zeros, whatever became of the block."""
    run(tmp_path / "whole")
    folder = tmp_path / "out.blocks"
    encode_blocks(Extraction(Pictures(), LinearEncoder(6), LinearEncoder(5), 4, progress=False), folder)
    path = folder / "000001.npz"
    content = bytearray(path.read_bytes())
    if harm == "deleted":
        path.unlink()
    elif harm == "of other data":
        other = Pictures()
        other.captions[0] = "another"
        encode_blocks(Extraction(other, LinearEncoder(6), LinearEncoder(5), 4), tmp_path / "other")
        path.write_bytes((tmp_path / "other/000001.npz").read_bytes())
    else:
        position = content.index(b"dino.npy") + 200  # within the features
        content[position : position + 4] = b"\xff\x00\xff\x00"
        path.write_bytes({"cut": content[:500], "bits flipped": content, "empty": b""}[harm])
    dino = LinearEncoder(6)
    run(tmp_path / "out", dino=dino)
    assert dino.calls == 2 and contents(tmp_path / "out") == contents(tmp_path / "whole")


KILLER = textwrap.dedent("""
    # Child k kills itself with SIGKILL at its k-th operation on the disk; its successors die at a random
    # operation and at a random time; the last one is left in peace. Until k is beyond the last operation.
    import json, os, random, shutil, signal, sys, threading, time
    from pathlib import Path
    from test_extraction import Pictures, contents, run
    from sparc_lib.features import blocks, extraction as extraction_module
    import torch
    from tqdm import tqdm
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0               # no thread that could hold a lock in the moment of a fork
    tqdm.set_lock(threading.RLock())        # its default lock is shared with forks: one killed blocks all
    root, draw, kills = Path(sys.argv[1]), random.Random(0), 0

    blocks.BATCHES, extraction_module.TOLERATED = 1, 0.2

    def extraction(out):
        run(out, Pictures(14, broken={9}), batch_size=3)

    def die_at(k):
        count = 0
        def watch(name):
            real = getattr(os, name)
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == k:
                    if name == "pwrite":                     # half a write, then death
                        real(args[0], args[1][:len(args[1]) // 2], args[2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            setattr(os, name, call)
        for name in ("pwrite", "fsync", "rename", "replace", "posix_fallocate", "rmdir", "unlink"):
            watch(name)

    def killed(k, seconds=None):
        pid = os.fork()
        if pid == 0:
            die_at(k)
            try:
                extraction(root / "out")
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
        patience = time.monotonic() + 60
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            assert time.monotonic() < patience, f"operation {k}: hangs"
            time.sleep(0.001)
        status = ended[1]
        assert status in (0, signal.SIGKILL), (k, status)
        return status == signal.SIGKILL

    extraction(root / "whole")
    whole = contents(root / "whole")
    for k in range(1, 500):
        more = killed(k)
        if more:
            kills += 1 + killed(draw.randrange(1, 30))
            if k % 4 == 0:
                kills += killed(0, draw.uniform(0, 0.03))
            assert not killed(0)
        assert contents(root / "out") == whole, k
        assert sorted(p.name for p in root.iterdir()) == ["out", "whole"], k
        shutil.rmtree(root / "out")
        if not more:
            break
    print(json.dumps({"kills": kills, "operations": k - 1}))
""")


@pytest.mark.slow
def test_kill_9_at_any_moment():
    """Killed at every single operation on the disk and at random times, then resumed: the same bytes."""
    memory = None
    if os.access("/dev/shm", os.W_OK):
        memory = "/dev/shm"  # a kill is no power cut: no need to wait for a real disk
    with tempfile.TemporaryDirectory(dir=memory) as root:
        done = as_child(KILLER, root)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] > result["operations"] > 40
