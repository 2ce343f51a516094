"""What the tests of whole jobs get: workers that start at once."""

from collections.abc import Iterator

import pytest

from tests.backend.jobs.warm_worker import WarmWorkers


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmWorkers]:
    with WarmWorkers(tmp_path_factory.mktemp("warm")) as workers:
        yield workers
