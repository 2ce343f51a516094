"""What the server's log leaves out when it is told to end: that pages which were open lost their connection.

Knows nothing about signals, or about who ends what.
"""

import asyncio
import logging

_TOO_LONG = "timeout graceful shutdown exceeded"  # uvicorn's words (uvicorn/server.py), for the tasks it cancels


def is_news(record: logging.LogRecord) -> bool:
    """Tell whether a record says more than that the end cut off what was being sent; a filter for uvicorn's log."""
    problem = record.exc_info[1] if record.exc_info else None
    if isinstance(problem, asyncio.CancelledError):
        return False
    return _TOO_LONG not in record.getMessage()
