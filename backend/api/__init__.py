"""The public gateway: OpenAI's chat protocol in front of whatever engine is loaded. Knows nothing about pages."""

from backend.api.routes import build_api

__all__ = ["build_api"]
