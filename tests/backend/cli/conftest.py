"""What tests of the terminal's commands share."""

import pytest

from backend.conversations import Conversations
from backend.engines.supervisor import Supervisor
from backend.jobs.manager import JobManager
from backend.services import Services
from backend.settings import Settings


@pytest.fixture
def services(settings: Settings) -> Services:
    """Real services over an empty data folder; the steps of their jobs are imaginary, and sources are not looked at."""
    return Services(
        settings=settings,
        jobs=JobManager(settings.data_dir, worker="tests.backend.jobs.fake_worker"),
        engine=Supervisor(settings.logs_dir),
        conversations=Conversations(settings.database),
        examiner=lambda *_: None,
    )
