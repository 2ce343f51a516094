"""What every test gets: no proxies, no tokens, no telemetry, and data folders of its own."""

from pathlib import Path

import hypothesis
import pytest

from backend.settings import Settings

# The same examples every time, and no deadline: a check must not fail by chance, or because the machine is busy. To
# look for new ones: ``python -m pytest --hypothesis-profile=search``.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what could make a test depend on the machine it runs on."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN",
                 "HF_ENDPOINT", "CRIA_DATA_DIR", "LANG", "LC_ALL", "LC_MESSAGES"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a run with its own empty data folder."""
    made = Settings(data_dir=tmp_path / "data")
    for folder in (made.models_dir, made.jobs_dir, made.logs_dir, made.temp_dir):
        folder.mkdir(parents=True)
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put browser tests last: playwright keeps an event loop running in this thread, and then ``asyncio.run`` fails."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
