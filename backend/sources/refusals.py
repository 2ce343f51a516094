"""What a server's refusal means to a person, and the way out of it. Knows nothing about requests."""

from backend.errors import SourceError


def refusal(status: int, code: str | None, *, host: str, repository: str, page: str, has_token: bool) -> SourceError:
    """Return the error for an HTTP status. ``code`` is the hub's own word for it; ``page`` is where a person may ask.

    A hub answers 401 for what is private and for what does not exist, lest the names of private repositories be told.
    """
    if code == "GatedRepo" or (status == 403 and code is None and has_token):
        key = "download.gated_token" if has_token else "download.gated"
        return SourceError(key, repository=repository, host=host, page=page)
    if status in (401, 403) and has_token:
        return SourceError("download.token_refused", repository=repository, host=host, status=status)
    if status in (401, 404, 410):
        return SourceError("download.not_found", repository=repository, host=host)
    if status == 451:
        return SourceError("download.legal", repository=repository, host=host)
    if status in (407, 511):
        return SourceError("proxy.login" if status == 407 else "proxy.portal", host=host)
    if status == 429:
        return SourceError("download.busy", host=host)
    return SourceError("download.refused", repository=repository, host=host, status=status)
