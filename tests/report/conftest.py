import pytest

from properties.report.schema import read_events
from properties.report.state import fold
from tests.report.synthetic import realistic


@pytest.fixture(scope="session")
def realistic_state(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    realistic(folder)
    return fold(*read_events(folder))


@pytest.fixture
def folded(tmp_path):
    """The state of the given runs, each written to a file of its own."""

    def fold_runs(*runs):
        for run in runs:
            run.write(tmp_path)
        return fold(*read_events(tmp_path))

    return fold_runs
