"""FeatureStore: contents, order, every way it can be broken, and the HDF5 import."""

import errno
import hashlib
import json
import os
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from sparc_lib.files import DiskFullError
from sparc_lib.store import FeatureStore, import_hdf5
from sparc_lib.store.format import EncoderStamp, StoreError

N, DIMS = 57, {"dino": 12, "clip_img": 8, "clip_txt": 8}
STAMPS = {
    "dino": EncoderStamp("dino", "rev-1", "print-1"),
    "clip_img": EncoderStamp("clip", "rev-2", "print-2"),
}


def contents(n=N):
    rng = np.random.default_rng(0)
    return dict(
        features={
            s: rng.normal(size=(n, d)).astype(np.float16 if s == "dino" else np.float32)
            for s, d in DIMS.items()
        },
        ids=[f"pair/{i}" for i in range(n)],
        image_ids=[f"image/{i // 2}" for i in range(n)],
        captions=[f'caption {i} \u2028 "é"\n' for i in range(n)],
        labels=sp.random(n, 5, 0.3, format="coo", random_state=0),
        classes=["a", "b", "c", "d", "e"],
        dataset="toy",
        split="test",
        encoders=STAMPS,
    )


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(tmp_path / "store", **contents())


def test_round_trip(store):
    given = contents()
    assert (len(store), store.streams, store.dims) == (N, ("dino", "clip_img", "clip_txt"), DIMS)
    for name, array in given["features"].items():
        assert isinstance(store[name], np.memmap) and store[name].dtype == array.dtype
        np.testing.assert_array_equal(store[name], array)
    assert (store.ids, store.image_ids, store.captions, store.classes) == tuple(
        given[k] for k in ("ids", "image_ids", "captions", "classes")
    )
    assert store.labels.dtype == bool and store.labels.format == "csr"
    np.testing.assert_array_equal(store.labels.toarray(), given["labels"].toarray() != 0)
    assert store.manifest.streams[0].encoder == STAMPS["dino"] and store.manifest.dataset == "toy"
    assert store.manifest.streams[2].encoder.revision == "unknown" and "numpy" in store.manifest.created_by
    store.verify()
    with pytest.raises(KeyError, match="no stream 'text'.*dino"):
        store["text"]


def test_rows_are_normalised_when_read(store):
    half = contents()["features"]["dino"].astype(np.float16).astype(np.float64)
    exact = half / np.linalg.norm(half, axis=1, keepdims=True)
    np.testing.assert_allclose(store.tensors()["dino"], exact, atol=1e-6)
    np.testing.assert_allclose(store.tensors(dtype=torch.float64)["dino"], exact, atol=1e-15)
    mask = np.arange(N) % 3 == 0
    for rows in (
        [5, 2, 2],
        np.array([5, 2, 2]),
        torch.tensor([5, 2, 2]),
        slice(2, 9),
        mask,
        torch.from_numpy(mask),
        range(3),
    ):
        np.testing.assert_allclose(store.tensors(rows)["dino"], exact[rows], atol=1e-6)


def test_batches_are_a_full_deterministic_shuffle(store):
    def run(**kwargs):
        return [b["dino"] for b in store.batches(10, generator=torch.Generator().manual_seed(3), **kwargs)]

    everything = store.tensors()["dino"]
    batches, again = run(), run()
    assert [len(b) for b in batches] == [10, 10, 10, 10, 10, 7] and len(run(drop_last=True)) == 5
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    order = torch.cdist(torch.cat(batches), everything).argmin(1)
    assert sorted(order.tolist()) == list(range(N)) and (order[1:] - order[:-1] == 1).sum() < 10
    assert torch.equal(torch.cat(run(shuffle=False)), everything)
    assert all(b["clip_txt"].dtype == torch.float32 for b in store.batches(10, shuffle=False))


def test_an_epoch_resumes_at_any_batch(store, monkeypatch):
    """The batches left out are not read."""
    seeded = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    whole = list(store.batches(10, generator=seeded()))
    rows = []
    gather = FeatureStore.gather
    monkeypatch.setattr(
        FeatureStore, "gather", lambda self, r, *a: (rows.extend(r.tolist()), gather(self, r, *a))[1]
    )
    rest = list(store.batches(10, generator=seeded(), start=4))
    assert len(rest) == 2 and len(rows) == 17
    assert all(torch.equal(a[s], b[s]) for a, b in zip(whole[4:], rest, strict=True) for s in DIMS)


def test_resident_gives_the_same_bits(store, monkeypatch):
    seeded = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    resident = store.resident("cpu")
    for a, b in zip(store.batches(10, seeded()), resident.batches(10, seeded()), strict=True):
        assert all(torch.equal(a[s], b[s]) for s in DIMS)
    monkeypatch.setattr("sparc_lib.store.reader.free_bytes", lambda device: 100)
    with pytest.raises(MemoryError, match="do not fit"):
        store.resident("cpu")


@pytest.mark.parametrize(
    "kind, stored",
    [(np.float16, np.float16), (np.float32, np.float32), (np.float64, np.float32), (np.int8, np.float32)],
)
def test_precision_is_that_of_the_source(tmp_path, kind, stored):
    values = np.arange(1, 13).reshape(4, 3).astype(kind)
    store = FeatureStore.create(tmp_path / "s", {"dino": values}, ids=list("abcd"))
    assert store["dino"].dtype == stored and store.manifest.streams[0].dtype == np.dtype(stored).name
    np.testing.assert_array_equal(store["dino"], values)
    FeatureStore.open(tmp_path / "s").verify()


def test_tensors_of_torch_keep_their_precision_too(tmp_path):
    """bfloat16, which NumPy lacks, fits into float32 without loss."""
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    given = {"a": values, "b": values.bfloat16(), "c": values.half().requires_grad_()}
    store = FeatureStore.create(tmp_path / "s", given, ids=list("abcd"))
    assert [store[s].dtype.name for s in "abc"] == ["float32", "float32", "float16"]
    for stream, x in given.items():
        assert torch.equal(torch.from_numpy(np.array(store[stream])).float(), x.detach().float())
    for bad in (values.numpy() + 1j, np.array([["x"] * 3] * 4), values.numpy() > 0):
        with pytest.raises(StoreError, match="(features of type|holds) .*give real numbers"):
            FeatureStore.create(tmp_path / "bad", {"a": bad}, ids=list("abcd"))


def test_reading_cannot_change_the_files(store):
    store.tensors()["dino"].zero_()
    next(store.batches(5, shuffle=False))["dino"].zero_()
    with pytest.raises(ValueError, match="read-only"):
        store["dino"][0] = 0
    FeatureStore.open(store.directory).verify()


def test_expected_encoder(store):
    FeatureStore.open(store.directory, expect={"dino": "rev-1", "clip_img": "print-2"})
    with pytest.raises(StoreError, match="manifest.json: stream 'dino'.*'rev-1'.*expected 'rev-9'"):
        FeatureStore.open(store.directory, expect={"dino": "rev-9"})
    with pytest.raises(KeyError, match="no stream 'text'"):
        FeatureStore.open(store.directory, expect={"text": "rev-1"})


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def edit_manifest(change):
    def damage(directory):
        raw = json.loads((directory / "manifest.json").read_text())
        change(raw)
        (directory / "manifest.json").write_text(json.dumps(raw))

    return damage


def rewrite(name, change):
    """Alter a small file and its hash in the manifest, as somebody would who means it."""

    def damage(directory):
        change(directory / name)
        digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        edit_manifest(lambda m: m["sha256"].update({name: digest}))(directory)

    return damage


def labels_out_of_range(path):
    bad = sp.csr_array((np.ones(1, bool), np.array([99]), np.r_[0, np.ones(N, int)]), shape=(N, 100))
    arrays = {
        "indices": bad.indices,
        "indptr": bad.indptr,
        "data": bad.data,
        "format": b"csr",
        "shape": (N, 5),
    }
    with open(path, "wb") as file:
        np.savez(file, **arrays, _is_array=True)


@pytest.mark.parametrize(
    "damage, error, words",
    [
        (lambda d: truncate(d / "dino.npy"), StoreError, "dino.npy: no whole array.*extract again"),
        (
            lambda d: truncate(d / "samples.jsonl"),
            StoreError,
            "samples.jsonl: its sha256 is not the manifest's",
        ),
        (lambda d: truncate(d / "manifest.json"), StoreError, "manifest.json: not a valid manifest"),
        (lambda d: (d / "clip_txt.npy").unlink(), FileNotFoundError, "clip_txt.npy: missing"),
        (lambda d: (d / "labels.npz").unlink(), FileNotFoundError, "labels.npz: missing"),
        (lambda d: (d / "manifest.json").unlink(), FileNotFoundError, "manifest.json: missing.*no finished"),
        (lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe{"), StoreError, "manifest.json: not a valid"),
        (lambda d: (d / "manifest.json").write_text("[" * 9000), StoreError, "manifest.json: not a valid"),
        (
            lambda d: (d / "clip_txt.npy").write_bytes(b"x" * (d / "clip_txt.npy").stat().st_size),
            StoreError,
            "clip_txt.npy: no whole array",
        ),
        (lambda d: (d / "clip_txt.npy").write_bytes(b""), StoreError, "clip_txt.npy: no whole array"),
        (edit_manifest(lambda m: m.pop("streams")), StoreError, "not a valid manifest.*streams"),
        (edit_manifest(lambda m: m.update(streams=[])), StoreError, "not a valid manifest.*streams"),
        (edit_manifest(lambda m: m.update(version=99)), StoreError, "field version"),
        (edit_manifest(lambda m: m.update(n_pairs=56)), StoreError, "57 pairs, the manifest says 56"),
        (edit_manifest(lambda m: m.update(n_pairs=-1)), StoreError, "field n_pairs"),
        (edit_manifest(lambda m: m["streams"][0].update(dim=11)), StoreError, "dino.npy: float16 .57, 12."),
        (edit_manifest(lambda m: m["streams"][0].update(dtype="float99")), StoreError, "streams.0.dtype"),
        (
            edit_manifest(lambda m: m["streams"][0].update(name="../dino")),
            StoreError,
            "streams.0.name.*letters",
        ),
        (
            edit_manifest(lambda m: m["streams"][0].update(name="/etc/x")),
            StoreError,
            "streams.0.name.*letters",
        ),
        (
            edit_manifest(lambda m: m["streams"][0].update(name="items")),
            StoreError,
            "means something to torch",
        ),
        (edit_manifest(lambda m: m["streams"][1].update(ids_sha256="0")), StoreError, "another order of ids"),
        (edit_manifest(lambda m: m["sha256"].pop("labels.npz")), StoreError, "labels.npz: its sha256"),
        (edit_manifest(lambda m: m["sha256"].update({"../up": "0"})), StoreError, "field sha256"),
        (
            rewrite("labels.npz", labels_out_of_range),
            StoreError,
            "labels or classes are unreadable.*indices must be < 5",
        ),
        (rewrite("labels.npz", truncate), StoreError, "labels or classes are unreadable"),
        (rewrite("labels.npz", lambda p: p.write_bytes(b"")), StoreError, "labels or classes are unreadable"),
        (rewrite("classes.json", lambda p: p.write_text('["a"]')), StoreError, "'labels' has shape"),
        (
            rewrite("classes.json", lambda p: p.write_text("[1, 2, 3, 4, 5]")),
            StoreError,
            "'classes' holds int",
        ),
        (rewrite("samples.jsonl", lambda p: p.write_text("{}\n")), StoreError, "unreadable"),
        (rewrite("samples.jsonl", lambda p: p.write_text("5\n")), StoreError, "unreadable"),
        (rewrite("samples.jsonl", lambda p: p.write_bytes(b"\xff\n")), StoreError, "unreadable"),
    ],
)
def test_damage_is_found_on_open(store, damage, error, words):
    damage(store.directory)
    with pytest.raises(error, match=words):
        FeatureStore.open(store.directory)


@pytest.mark.parametrize("name", ["samples.jsonl", "labels.npz", "classes.json"])
def test_a_small_file_altered_at_equal_size_is_found_on_open(store, name):
    """Captions edited, labels of the validation store in the place of the test store's."""
    content = bytearray((store.directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (store.directory / name).write_bytes(content)
    with pytest.raises(
        StoreError, match=f"{name}: its sha256 is not the manifest's .cut, altered or swapped"
    ):
        FeatureStore.open(store.directory)
    with pytest.raises(StoreError, match=f"{name}: its sha256"):
        store.verify()  # opened before


def test_digest_is_that_of_features_labels_and_captions(tmp_path):
    digests = []
    for change in (
        {},
        {"captions": ["other"] * N},
        {"labels": None},
        {"classes": list("vwxyz")},
        {"split": "val"},
    ):
        directory = tmp_path / str(len(digests))
        digests.append(FeatureStore.create(directory, **{**contents(), **change}).digest)
    assert len(set(digests)) == 5


def test_a_stream_of_another_store_is_refused(store, tmp_path):
    """Same shape, other order of ids: array and manifest entry copied over."""
    given = contents()
    given["ids"] = given["ids"][::-1]
    other = FeatureStore.create(tmp_path / "other", **given)
    shutil.copy(other.directory / "dino.npy", store.directory / "dino.npy")
    foreign = json.loads((other.directory / "manifest.json").read_text())["streams"][0]
    edit_manifest(lambda m: m["streams"].__setitem__(0, foreign))(store.directory)
    with pytest.raises(StoreError, match="another order of ids"):
        FeatureStore.open(store.directory)


@pytest.mark.parametrize("value, words", [(np.nan, "NaN"), (0.0, "all zero"), (1.0, "sha256")])
def test_verify_reads_everything(store, value, words):
    array = np.load(store.directory / "dino.npy", mmap_mode="r+")
    array[33] = value
    array.flush()
    reopened = FeatureStore.open(store.directory)
    with pytest.raises(StoreError, match=f"dino.npy.*{words}"):
        reopened.verify()


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda g: g["features"].update(dino=g["features"]["dino"][:-1]),
            r"'dino' has shape \(56, 12\) for 57 ids",
        ),
        (lambda g: g["features"]["dino"].__setitem__((3, 2), np.nan), "dino.npy: 1 rows are NaN.*pair/3"),
        (lambda g: g["features"]["dino"].__setitem__((3, 2), np.inf), "beyond float16.*pair/3"),
        (lambda g: g["features"]["clip_txt"].__setitem__(4, 0), "all zero.*pair/4"),
        (lambda g: g.update(captions=g["captions"][1:]), "'captions' has 56 entries for 57 ids"),
        (lambda g: g.update(classes=["a"]), "'labels' has shape"),
        (lambda g: g["ids"].__setitem__(1, "pair/0"), "'pair/0' occurs more than once"),
        (lambda g: g["features"].update({"../evil": g["features"]["dino"]}), "stream name '../evil'"),
        (lambda g: g["features"].update({"/tmp/evil": g["features"]["dino"]}), "stream name '/tmp/evil'"),
        (lambda g: g["features"].update({"": g["features"]["dino"]}), "stream name ''"),
        (lambda g: g["features"].update(keys=g["features"]["dino"]), "'keys' means something to torch"),
        (lambda g: g.update(ids=list(np.arange(N))), "'ids' holds int64; give text"),
        (lambda g: g.update(ids=list(range(N))), "'ids' holds int; give text"),
        (lambda g: g.update(captions=[b"x"] * N), "'captions' holds bytes; give text"),
        (lambda g: g.update(classes=[1, 2, 3, 4, 5]), "'classes' holds int; give text"),
        (lambda g: g.update(labels=np.full((N, 5), np.nan)), "labels: contains NaN"),
        (
            lambda g: g.update(
                features={s: a[:0] for s, a in g["features"].items()},
                ids=[],
                image_ids=[],
                captions=[],
                labels=None,
            ),
            "at least one pair",
        ),
    ],
)
def test_bad_input_is_refused_and_leaves_no_store(tmp_path, change, words):
    given = contents()
    change(given)
    with pytest.raises(ValueError, match=words):
        FeatureStore.create(tmp_path / "store", **given)
    assert not (tmp_path / "store").exists() and not (tmp_path / "evil.npy").exists()


def test_a_finished_store_is_replaced_only_on_request(store):
    given, before = contents(), store.digest
    with pytest.raises(FileExistsError, match="overwrite=True"):
        FeatureStore.create(store.directory, **given)
    given["features"]["dino"] += 1
    after = FeatureStore.create(store.directory, **given, overwrite=True)
    assert after.digest != before and sorted(p.name for p in store.directory.parent.glob("store*")) == [
        "store"
    ]
    assert after.digest == FeatureStore.open(store.directory).digest


@pytest.mark.parametrize("where", ["posix_fallocate", "fsync"])
def test_a_full_disk_is_named_and_the_next_try_succeeds(tmp_path, where, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(DiskFullError, match="store.*: the disk is full. Free space there"):
            FeatureStore.create(tmp_path / "store", **contents())
    assert not (tmp_path / "store").exists()
    FeatureStore.create(tmp_path / "store", **contents()).verify()
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


# --- the authors' HDF5 files ---


def write_h5(path, features, indices=None):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=True, compression="gzip")
        if indices is not None:
            file.create_dataset("indices", data=indices)
    return path


def test_import_aligns_by_indices(tmp_path):
    rng, given = np.random.default_rng(1), contents()
    files = {}
    for name, array in given["features"].items():
        order = rng.permutation(N)
        files[name] = write_h5(tmp_path / f"{name}.h5", array[order], order)
    files["clip_img"] = write_h5(
        tmp_path / "in_order.h5", given["features"]["clip_img"]
    )  # no indices: row numbers
    store = import_hdf5(
        tmp_path / "store",
        files,
        **{k: given[k] for k in ("ids", "image_ids", "captions", "labels", "classes")},
    )
    for name, array in given["features"].items():
        np.testing.assert_array_equal(store[name], array)
    assert store.ids == given["ids"] and store.captions == given["captions"]
    np.testing.assert_array_equal(store.labels.toarray(), given["labels"].toarray() != 0)


def test_import_of_the_common_samples(tmp_path):
    array = contents()["features"]["dino"]
    files = {
        "dino": write_h5(tmp_path / "a.h5", array[[9, 4, 7]], [9, 4, 7]),
        "clip_img": write_h5(tmp_path / "b.h5", array[[7, 8, 9]], [7, 8, 9]),
    }
    with pytest.raises(StoreError, match=r"a.h5: stream 'dino' has 1 of 3 samples.*\[4\].*only_common"):
        import_hdf5(tmp_path / "store", files)
    store = import_hdf5(tmp_path / "store", files, only_common=True, captions=[f"c{i}" for i in range(10)])
    assert store.ids == ["7", "9"] and store.captions == ["c7", "c9"]
    for name in files:
        np.testing.assert_array_equal(store[name], array[[7, 9]])


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda p: write_h5(p, np.ones((3, 4)), [0, 1]), StoreError, "'indices' has shape .2,. for 3 rows"),
        (lambda p: write_h5(p, np.ones((3, 4)), [0, 1, 1]), StoreError, "twice"),
        (
            lambda p: write_h5(p, np.ones((3, 4)), [0, 1, -1]),
            StoreError,
            "'indices' .int64. must be whole numbers",
        ),
        (
            lambda p: write_h5(p, np.ones((3, 4)), [0.0, 0.7, 2.0]),
            StoreError,
            "'indices' .float64. must be whole",
        ),
        (
            lambda p: write_h5(p, np.ones((3, 4)), np.uint64([0, 1, 2**63])),
            StoreError,
            "must be whole numbers",
        ),
        (lambda p: write_h5(p, np.ones(3)), StoreError, "no two-dimensional dataset 'features'"),
        (lambda p: p.write_bytes(b"not hdf5"), StoreError, "not a readable HDF5 file"),
        (lambda p: None, FileNotFoundError, "missing"),
        (lambda p: write_h5(p, np.ones((3, 4)), [0, 1, 99]), StoreError, "samples that others lack"),
        (lambda p: write_h5(p, np.ones((2, 4))), StoreError, "other.h5: .*lack"),
        (lambda p: write_h5(p, np.zeros((3, 4))), StoreError, "all zero"),
    ],
)
def test_bad_hdf5_is_named(tmp_path, make, error, words):
    files = {"dino": write_h5(tmp_path / "other.h5", np.ones((3, 4))), "clip_img": tmp_path / "bad.h5"}
    make(files["clip_img"])
    with pytest.raises(error, match=words):
        import_hdf5(tmp_path / "store", files)
    with pytest.raises(error, match=words):
        import_hdf5(tmp_path / "store", dict(reversed(files.items())))
    assert not (tmp_path / "store").exists()


def test_metadata_must_cover_the_files(tmp_path):
    files = {"dino": write_h5(tmp_path / "a.h5", np.ones((3, 4)))}
    with pytest.raises(StoreError, match="'ids' has 2 entries but the files name sample 2"):
        import_hdf5(tmp_path / "store", files, ids=["x", "y"])


@pytest.mark.parametrize("field", ["ids", "image_ids", "captions", "classes"])
@pytest.mark.parametrize("kind", [str, set, dict])
def test_columns_without_an_order_are_refused(tmp_path, field, kind):
    """A text was taken letter by letter, a set in any order, a dict by its keys."""
    given = contents()
    column = given[field]
    given[field] = {str: "x" * len(column), set: set(column), dict: dict.fromkeys(column)}[kind]
    with pytest.raises(StoreError, match=f"store: field '{field}': got a {kind.__name__}; give a list"):
        FeatureStore.create(tmp_path / "store", **given)
    assert not list(tmp_path.iterdir())


def test_masks_are_not_lost_and_byte_orders_are_read(tmp_path):
    given, mask = contents(), np.zeros((N, 5), bool)
    mask[0] = True
    labels = np.ma.masked_array(np.ones((N, 5)), mask=mask)
    with pytest.raises(StoreError, match="labels: a masked array"):
        FeatureStore.create(tmp_path / "store", **given | {"labels": labels})
    dino = given["features"]["dino"]
    for same in (dino.astype(">f2"), dino[::-1].copy()[::-1]):
        again = given | {"features": {"dino": same}, "encoders": {}, "overwrite": True}
        store = FeatureStore.create(tmp_path / "store", **again)
        assert store["dino"].dtype == np.float16
        np.testing.assert_array_equal(store["dino"], dino)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_rows_whose_norm_leaves_float32_are_refused(tmp_path, scale):
    """They were read as zeros or infinite."""
    features = {"a": np.ones((3, 4), np.float32) * np.float32(scale)}
    with pytest.raises(StoreError, match="a.npy: 3 rows are .*norm beyond float32"):
        FeatureStore.create(tmp_path / "store", features, ids=["x", "y", "z"])


def test_only_stores_are_overwritten_and_what_lies_beside_stays(tmp_path):
    """overwrite=True deleted whatever folder it was pointed to, and a neighbour called <name>.old."""
    work, store = tmp_path / "work", tmp_path / "store"
    for folder in (work, tmp_path / "store.old"):
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    given = contents() | {"overwrite": True}
    with pytest.raises(FileExistsError, match="work: is no feature store, so it is not overwritten"):
        FeatureStore.create(work, **given)
    for _ in range(2):
        FeatureStore.create(store, **given)
    assert (work / "thesis.txt").exists() and (tmp_path / "store.old/thesis.txt").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_streams_that_are_not_there_are_named(tmp_path):
    given = contents()
    with pytest.raises(StoreError, match=r"encoders names \['dinno'\], the streams are"):
        FeatureStore.create(tmp_path / "store", **given | {"encoders": {"dinno": STAMPS["dino"]}})
    with pytest.raises(StoreError, match="no streams; give at least one"):
        FeatureStore.create(tmp_path / "store", **given | {"features": {}})


def test_hdf5_columns_are_taken_by_place(tmp_path):
    """A filtered Series was looked up by its index: other captions, without a word."""
    write_h5(tmp_path / "a.h5", np.ones((3, 4), np.float32))
    captions = pd.Series(["x", "y", "z"], index=[2, 1, 0])
    store = import_hdf5(tmp_path / "store", {"a": tmp_path / "a.h5"}, captions=captions)
    assert store.captions == ["x", "y", "z"]
    with pytest.raises(ValueError, match="field 'captions': got a str"):
        import_hdf5(tmp_path / "other", {"a": tmp_path / "a.h5"}, captions="xyz")


@pytest.mark.parametrize("harm", ["group", "index group", "number", "text", "chunk"])
def test_hdf5_of_other_kinds_is_named(tmp_path, harm):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        if harm == "group":
            file.create_group("features")
        elif harm == "text":
            file["features"] = [["a", "b"]]
        else:
            values = np.random.default_rng(0).normal(size=(3000, 20))
            file.create_dataset("features", data=values, compression="gzip", chunks=(500, 20))
        if harm == "index group":
            file.create_group("indices")
        if harm == "number":
            file["indices"] = 3
    if harm == "chunk":
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 300] = bytes(300)
        path.write_bytes(content)
    with pytest.raises(StoreError, match="a.h5: "):
        import_hdf5(tmp_path / "store", {"a": path})
