"""Engines that pass requests on, and a stand-in for vLLM."""

from pathlib import Path


def fake_vllm_path() -> Path:
    """Return the stand-in's file."""
    return Path(__file__).with_name("fake_vllm.py")
