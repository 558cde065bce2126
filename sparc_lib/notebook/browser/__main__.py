"""`python -m sparc_lib.notebook.browser --profile NAME`: write the latent browser of a profile."""

import argparse
import logging

from ...profiles import load_profile, named
from .page import build

parser = argparse.ArgumentParser(prog="python -m sparc_lib.notebook.browser", description=__doc__)
parser.add_argument("--profile", help="name, or path of a YAML file; default $SPARC_PROFILE, else mini")
profile = load_profile(named(parser.parse_args().profile))
logging.basicConfig(format="%(message)s")
logging.getLogger(__package__).setLevel(logging.INFO)
build(profile)
