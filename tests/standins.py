"""Small data sets in the formats of Open Images, Localized Narratives and COCO, and a web server to get
them from."""

import io
import json
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copy

import numpy as np
from PIL import Image

META = Path(__file__).parents[1] / "sparc_lib/data/openimages_meta"
CARRIED = ("/m/0bt9lr", "/m/01yrx", "/m/0k4j", "/m/07j7r", "/m/09j2d")  # dog, cat, car, tree, clothing
TOLD = ("a brown dog on the grass", "a cat", "a car on the road", "a tree", "a person in a coat")
CATEGORIES = [
    (1, "person", "person"),
    (2, "bicycle", "vehicle"),
    (18, "dog", "animal"),
    (17, "cat", "animal"),
    (52, "banana", "food"),
]


def jpeg(seed, width=40, height=30, grey=False):
    data, picture = io.BytesIO(), np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(picture[..., 0] if grey else picture).save(data, "JPEG")
    return data.getvalue()


def open_images(root, n=12, splits=("train", "validation", "test"), varied=False):
    """n images a split, every fourth with a second caption further down the file. Returns the number of
    captions.

    varied: every third image stands upright and every fifth is grey, as real collections have them.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for name in ("oidv7-class-descriptions-boxable.csv", "bbox_labels_600_hierarchy.json"):
        copy(META / name, root)
    for number, split in enumerate(splits):
        (root / split).mkdir()
        ids = [f"{number}{i:015x}" for i in range(n)]
        captions = [(image, i) for i, image in enumerate(ids)] + [
            (image, i) for i, image in enumerate(ids) if i % 4 == 0
        ]
        table = ["ImageID,Source,LabelName,Confidence"]
        for i, image in enumerate(ids):
            size = (24, 44) if varied and i % 3 == 2 else (40, 30)
            (root / split / f"{image}.jpg").write_bytes(
                jpeg(100 * number + i, *size, grey=varied and i % 5 == 4)
            )
            table += [
                f"{image},verification,{CARRIED[i % 5]},1",
                f"{image},crowdsource-verification,{CARRIED[i % 5]},1",
                f"{image},verification,{CARRIED[(i + 1) % 5]},0",
                f"{image},verification,/m/01g317,1",
            ]
        table.append(f"{'f' * 16},verification,/m/01g317,1")  # an image without a caption
        (root / f"{split}-annotations-human-imagelabels-boxable.csv").write_text("\n".join(table) + "\n")
        name = f"open_images_{'train_v6' if split == 'train' else split}_captions.jsonl"
        (root / name).write_text(
            "".join(
                json.dumps(
                    {
                        "dataset_id": f"open_images_{split}",
                        "image_id": image,
                        "annotator_id": i,
                        "caption": f"In this image we can see {TOLD[i % 5]}. ",
                    }
                )
                + "\n"
                for image, i in captions
            )
        )
    return n + -(-n // 4)


def describe(root, n_captions, url=None, **more):
    """`source.json`: this is an excerpt, to be had from `url`."""
    where = (
        {}
        if url is None
        else {
            "classes": f"{url}/oidv7-class-descriptions-boxable.csv",
            "labels": url,
            "captions": url,
            "hierarchy": f"{url}/bbox_labels_600_hierarchy.json",
            "images": url,
        }
    )
    Path(root).mkdir(parents=True, exist_ok=True)
    (Path(root) / "source.json").write_text(
        json.dumps(
            {"name": "excerpt", "train": n_captions, "val": n_captions, "test": n_captions, **where, **more}
        )
    )


def coco(root, n_train=24, n_val=8, zipped=False, varied=False):
    """train2017 and val2017 with five captions an image and one or two instances; ids are not in order of
    the file.

    varied: every third image stands upright and every fifth is grey.
    """
    root = Path(root)
    documents = {}
    for split, n, first in (("train2017", n_train, 100), ("val2017", n_val, 500)):
        (root / split).mkdir(parents=True)
        images, captions, instances = [], [], []
        for i in reversed(range(n)):
            number = first + 7 * i
            width, height = (40, 44) if varied and i % 3 == 2 else (40, 30)
            images.append(
                {
                    "id": number,
                    "file_name": f"{number:012d}.jpg",
                    "width": width,
                    "height": height,
                    "coco_url": f"http://images.cocodataset.org/{split}/{number:012d}.jpg",
                }
            )
            (root / split / f"{number:012d}.jpg").write_bytes(
                jpeg(number, width, height, varied and i % 5 == 4)
            )
            for k in range(5):
                captions.append(
                    {
                        "image_id": number,
                        "id": 10 * number + (4 - k),
                        "caption": f"{TOLD[i % 5]}, told {4 - k}.\n",
                    }
                )
            if i % 7 != 6:  # some photographs have no instance
                for k in range(1 + i % 2):
                    x = 2 + 20 * k
                    instances.append(
                        {
                            "id": 10 * number + k,
                            "image_id": number,
                            "category_id": CATEGORIES[(i + k) % 5][0],
                            "iscrowd": 0,
                            "area": 100,
                            "bbox": [x, 5, 10, 10],
                            "segmentation": [[x, 5, x + 10, 5, x + 10, 15, x, 15]],
                        }
                    )
        tall = images[0]["height"]
        instances.append(
            {
                "id": 5,
                "image_id": images[0]["id"],
                "category_id": 1,
                "iscrowd": 1,
                "area": 60,
                "bbox": [0, 0, 2, 30],
                "segmentation": {"counts": [0, 2 * tall, 38 * tall], "size": [tall, 40]},
            }
        )
        kinds = [{"id": number, "name": name, "supercategory": above} for number, name, above in CATEGORIES]
        documents[f"annotations/captions_{split}.json"] = {"images": images, "annotations": captions}
        documents[f"annotations/instances_{split}.json"] = {
            "images": images,
            "annotations": instances,
            "categories": kinds,
        }
    if zipped:
        with zipfile.ZipFile(root / "annotations_trainval2017.zip", "w") as archive:
            for name, document in documents.items():
                archive.writestr(name, json.dumps(document))
    else:
        (root / "annotations").mkdir()
        for name, document in documents.items():
            (root / name).write_text(json.dumps(document))


class Web:
    """What the server was asked for, and how it is to misbehave: `status` answers a path with a code that
    often,
    `cut` halves its body that often, `altered` replaces it, `types` names its content type, `headers`
    {path: {name: value}} come with it, `delay` (seconds) comes before every answer, `drip` (seconds) after
    every byte of it.
    """

    def __init__(self):
        self.asked, self.status, self.cut, self.altered = Counter(), {}, Counter(), {}
        self.types, self.headers, self.delay, self.drip = {}, {}, 0.0, 0.0


@contextmanager
def served(directory):
    """(address, Web) of a server over a directory, on a free port of this machine."""
    web, lock = Web(), threading.Lock()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            with lock:
                web.asked[self.path] += 1
                code, times = web.status.get(self.path, (0, 0))
                web.status[self.path] = (code, times - 1)
                cut = web.cut[self.path] > 0
                web.cut[self.path] -= cut
            threading.Event().wait(web.delay)
            if times > 0:
                self.send_response(code)
                self.send_header("Content-Length", "0")
                for name, value in web.headers.get(self.path, {}).items():
                    self.send_header(name, value)
                self.end_headers()
                return
            path = Path(self.translate_path(self.path))
            body = web.altered.get(self.path, path.read_bytes() if path.is_file() else None)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            if self.path in web.types:
                self.send_header("Content-Type", web.types[self.path])
            for name, value in web.headers.get(self.path, {}).items():
                self.send_header(name, value)
            self.end_headers()
            if body is not None:
                with suppress(ConnectionError):  # the client was killed
                    if web.drip:
                        for byte in body:
                            self.wfile.write(bytes([byte]))
                            threading.Event().wait(web.drip)
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection = cut or self.close_connection

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(directory)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
