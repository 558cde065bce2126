"""`./run_all.sh --fetch`: the photographs of a profile, downloaded before its notebooks run."""

import os
from pathlib import Path

from .. import paths
from ..profiles import load_profile


class RunError(RuntimeError):
    """A run that cannot begin or go on; its message is for the person at the terminal."""


def use_data_root(folder: str | None) -> None:
    """Look for the data sets in `folder` from now on, in the notebooks too. Raises RunError if it is not
    there."""
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise RunError(f"--data-root {folder}: no such folder; make it, or mend the path")
    os.environ["SPARC_DATASETS"] = str(Path(folder).resolve())


def fetch(profile_name: str) -> int:
    """Download what is missing of every split; 0 if all is there, else 1. Raises RunError."""
    profile = load_profile(profile_name)
    if profile.data.kind == "miniworld":
        raise RunError(
            f"--fetch: profile {profile.name} draws its pictures and downloads nothing; name another one, "
            "as --profile coco"
        )
    if paths.offline():
        raise RunError("--fetch needs the network, which --offline or $SPARC_OFFLINE forbids; leave that out")
    import requests

    from ..data import catalogue  # imports torch, which no other part of the runner needs

    complete = True
    for split in ("train", "val", "test"):
        try:
            report = catalogue.fetch(profile, split)
        except (OSError, ValueError, RuntimeError, requests.RequestException) as error:
            raise RunError(str(error)) from error
        print(
            f"{split:<6} {report.n_present + report.n_fetched:,} of {report.n_wanted:,} images are there, "
            f"{report.n_fetched:,} ({report.n_bytes / 2**30:.2f} GiB) fetched now, "
            f"{len(report.missing):,} missing",
            flush=True,
        )
        if report.missing:
            listed: Path = catalogue.folder(profile) / f"missing-{split}.csv"
            print(f"       {listed} lists them; run the same command again to try once more", flush=True)
            complete = False
    return 0 if complete else 1
