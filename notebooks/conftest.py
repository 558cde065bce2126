"""nbval compares the printed checks; progress bars and warnings tell of the machine, not of the result."""


def pytest_collectstart(collector):
    if collector.path and collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr",)
