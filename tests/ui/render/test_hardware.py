"""The hardware card: every fact shown, who uses a GPU, unknown said to be unknown, no GPU said plainly."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.hardware import Gpu, GpuProcess, Hardware
from backend.text import LANGUAGES
from tests.ui.render.reading import Page
from ui.render.hardware import hardware_card

PLAIN = Hardware(
    cpu="A <fast> CPU",
    cores=16,
    ram_total=64_000_000_000,
    ram_free=48_000_000_000,
    disk_path=Path("/srv/models"),
    disk_total=1_000_000_000_000,
    disk_free=250_000_000_000,
    gpus=(),
    gpu_problem="NVML Shared Library Not Found",
    mps=False,
    driver=None,
    cuda_driver=None,
    python="3.11.2",
    system="Linux 6.1",
    versions={"torch": "2.13.0+cpu", "transformers": "5.23.0", "bitsandbytes": None},
)
GPU = Gpu(
    0, "NVIDIA H200", 141_000_000_000, 100_000_000_000,
    (GpuProcess(4711, 41_000_000_000, "python", "ada"), GpuProcess(4712, None, None, None)),
)  # fmt: skip
WITH_GPU = replace(
    PLAIN, gpus=(GPU, Gpu(1, "NVIDIA H200", None, None)), driver="570.1", cuda_driver="12.8", gpu_problem=None
)


def test_memory_disk_and_processor_are_shown_with_how_full_they_are() -> None:
    page = Page(hardware_card(PLAIN, "en"))
    shown = [one.text for one in page.all("p", cls="hw-value")]
    assert shown == ["48.0 GB free of 64.0 GB", "None found", "250 GB free of 1.0 TB", "16 cores"]
    assert [one["aria-valuenow"] for one in page.all(role="meter")] == ["25", "75"]
    below = " ".join(one.text for one in page.all("p", cls="hw-below"))
    assert "/srv/models" in below
    assert "A <fast> CPU" in below


def test_without_a_gpu_the_card_says_what_that_means_and_what_the_driver_said() -> None:
    page = Page(hardware_card(PLAIN, "en"))
    assert any("run on the CPU" in one.text for one in page.all("p", cls="hw-below"))
    assert page.facts()["GPU driver"] == "unknown (NVML Shared Library Not Found)"


def test_every_gpu_shows_its_memory_and_who_uses_it() -> None:
    page = Page(hardware_card(WITH_GPU, "en"))
    assert "100 GB free of 141 GB" in [one.text for one in page.all("p", cls="hw-value")]
    users = [one.text for one in page.all("li")]
    assert users[0] == "python (user ada, process 4711): 41.0 GB"
    assert users[1] == "unknown (user unknown, process 4712): unknown"
    assert "as far as the driver tells" in users[2]
    assert page.facts()["GPU driver"] == "570.1"
    assert page.facts()["Newest CUDA the driver runs"] == "12.8"


@pytest.mark.parametrize(
    ("torch", "shown"),
    [
        ("2.13.0+cpu", "2.13.0+cpu (built for CPU)"),
        ("2.13.0+cu128", "2.13.0+cu128 (built for CUDA 12.8)"),
        ("2.13.0", "2.13.0 (built for unknown)"),
        (None, "not installed"),
    ],
)
def test_versions_say_what_torch_was_built_for(torch: str | None, shown: str) -> None:
    facts = Page(hardware_card(replace(PLAIN, versions={"torch": torch, "bitsandbytes": None}), "en")).facts()
    assert facts["torch"] == shown
    assert facts["bitsandbytes"] == "not installed"
    assert facts["Python"] == "3.11.2"


def test_a_gpu_that_this_torch_cannot_use_is_pointed_out() -> None:
    assert "built for the CPU only" in Page(hardware_card(WITH_GPU, "en")).one(role="note").text
    fitting = replace(WITH_GPU, versions={"torch": "2.13.0+cu128"})
    assert not Page(hardware_card(fitting, "en")).all(role="note")
    assert not Page(hardware_card(PLAIN, "en")).all(role="note")


def test_an_apple_gpu_is_not_called_missing() -> None:
    page = Page(hardware_card(replace(PLAIN, mps=True), "en"))
    assert "Apple GPU (Metal)" in [one.text for one in page.all("p", cls="hw-value")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_machine_that_tells_nothing_is_drawn_as_unknown(language: str) -> None:
    nothing = replace(
        PLAIN, cpu=None, cores=None, ram_total=None, ram_free=None, disk_total=None, disk_free=None, gpu_problem=None,
        versions={},
    )  # fmt: skip
    page = Page(hardware_card(nothing, language))
    unknown = {"en": "unknown", "zh-CN": "未知", "zh-TW": "未知"}[language]
    assert [one.text for one in page.all("p", cls="hw-value")].count(unknown) == 3
    assert not page.all(role="meter")
