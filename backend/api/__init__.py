"""The public gateway: OpenAI's chat protocol in front of whatever engine is loaded. Knows nothing about pages."""

from backend.api.metrics import build_metrics
from backend.api.routes import build_api

__all__ = ["build_api", "build_metrics"]
