"""Requests to a Hugging Face Hub: tried again where that helps, and explained where they fail.

The client is huggingface_hub, so HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and a stored token do what its users
expect. What it says is not repeated, except the server's own words, and those only after everything that
looks like a token was taken out; the client's exception is not chained either, as a traceback would print it.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from stablesig.extras import MissingExtraError
from stablesig.one_line import shown
from stablesig_detector.errors import OutputError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

ATTEMPTS = 4
LONGEST_WAIT_S = 120.0  # what a Hub asks for beyond this is left to the user
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
CONFLICTS = frozenset({409, 412})  # somebody else changed the repository at the same time
_NETWORK_ERRORS = {"TransportError", "ConnectionError", "Timeout", "ChunkedEncodingError", "JSONDecodeError"}
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})
_SHOWN_AT_MOST = 200  # characters of the server's words


class HubError(OutputError):
    """A Hub that cannot be reached, or does not do what it was asked.

    status: of the HTTP answer, None where there was none.  transient: whether the same request may succeed
    later.  wait_s: seconds that the Hub asks to be left alone.
    """

    def __init__(self, text: str, status: int | None = None, transient: bool = False, wait_s: float = 0.0):
        super().__init__(text)
        self.status = status
        self.transient = transient
        self.wait_s = wait_s


@dataclass(frozen=True)
class Hub:
    """A client with its token, which neither `repr` nor any error shows."""

    api: HfApi = field(repr=False)
    token: str | None = field(repr=False)
    host: str

    def ask(self, what: str, call: Callable[[], T], *, attempts: int = ATTEMPTS) -> T:
        """The result of `call`, made again while it fails in a way that may pass.

        what: the thing asked for, as in "creating org/name"; it starts the error's text.  Raises HubError.
        """
        for attempt in range(1, attempts + 1):
            result, problem = _outcome(call)
            if problem is None:
                return result  # type: ignore[return-value]
            error = self.explained(what, problem)
            if not error.transient or attempt == attempts or error.wait_s > LONGEST_WAIT_S:
                break
            pause(attempt, error)
        raise error

    def explained(self, what: str, problem: Exception) -> HubError:
        """What went wrong with a request, in words that hold no token."""
        if isinstance(problem, HubError):
            return problem
        if isinstance(problem, ValueError) and str(problem).startswith("Invalid metadata in README.md"):
            words = self._scrubbed(str(problem).partition("\n")[2])
            return HubError(f"{what}: the Hub refuses the metadata of README.md: {words}; mend the card")
        cause = _cause(problem)
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        words = self._scrubbed(getattr(cause, "server_message", None) or "")
        if isinstance(status, int):
            wait = _retry_after(response)
            transient = status in TRANSIENT
            said = f" ({words})" if words else ""
            advice = _advice(cause, status, wait)
            return HubError(
                f"{what}: {self.host} answered HTTP {status}{said}; {advice}", status, transient, wait
            )
        local = next((error for error in _chain(problem) if getattr(error, "errno", None) in _DISK), None)
        if isinstance(local, OSError):
            return HubError(f"{what}: {local.strerror}; free some space, or check the permissions")
        name = type(cause).__name__
        if name == "OfflineModeIsEnabled":
            return HubError(f"{what}: HF_HUB_OFFLINE is set; unset it")
        if name == "HFValidationError":
            return HubError(f"{what}: that is not a valid name on the Hub; give ORG/NAME")
        kinds = [parent.__name__ for error in _chain(problem) for parent in type(error).__mro__]
        network = any(kind in _NETWORK_ERRORS for kind in kinds)
        advice = "check the network and HF_ENDPOINT, then run the same command again"
        return HubError(f"{what}: {self.host} did not answer properly ({name}); {advice}", transient=network)

    def _scrubbed(self, text: str) -> str:
        if self.token:
            text = text.replace(self.token, "***")
        text = re.sub(r"\bhf_\w{6,}", "hf_***", text)
        text = re.sub(r"(?i)(bearer\s+)\S+", r"\1***", text)
        text = shown(re.sub(r"//[^/\s@]+@", "//", text))
        return text if len(text) <= _SHOWN_AT_MOST else f"{text[: _SHOWN_AT_MOST - 3]}..."


def connect(what: str, token: str | None = None) -> Hub:
    """A client. token: None for the stored one or HF_TOKEN, as the client's users expect.

    Raises MissingExtraError without huggingface_hub, UsageError for a token that cannot be one.
    """
    try:
        from huggingface_hub import HfApi, constants, get_token
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "huggingface_hub":
            raise
        raise MissingExtraError(
            f"{what} needs huggingface-hub, which is not installed; run: pip install 'stablesig[hub]'"
        ) from error
    found = token if token is not None else get_token()
    if found is not None and not re.fullmatch(r"[\x21-\x7e]+", found):
        # Checked here because the HTTP client would quote such a header in its error.
        raise UsageError("the Hub token holds spaces or characters that no token has; copy it again")
    endpoint = urlsplit(constants.ENDPOINT)
    host = f"{endpoint.hostname}:{endpoint.port}" if endpoint.port else endpoint.hostname or "the Hub"
    return Hub(HfApi(token=found if found is not None else False), found, host)


def make_public(repo_id: str, *, commit: str | None = None, token: str | None = None) -> bool:
    """Make a repository public. Returns whether it was private before. Raises HubError.

    commit: what main must be at, for what was verified is not what another commit since then holds.
    """
    hub = connect("publish", token)
    with quiet_client():
        info = hub.ask(f"reading {repo_id}", lambda: hub.api.model_info(repo_id))
        if commit is not None and info.sha != commit:
            raise HubError(
                f"making {repo_id} public: main has moved from {commit}, which was verified, to {info.sha}; "
                "it stays as it is; look who changed it, and run the same command again"
            )
        if not info.private:
            return False
        hub.ask(
            f"making {repo_id} public",
            lambda: hub.api.update_repo_settings(repo_id, private=False, repo_type="model"),
        )
    return True


@contextmanager
def quiet_client(bars: bool = False) -> Iterator[None]:
    """Hush the client's remarks, which quote addresses; its progress bars stay if `bars`."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    verbosity = logging.get_verbosity()
    hide = not bars and not are_progress_bars_disabled()
    logging.set_verbosity_error()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hide:
            enable_progress_bars()


def pause(attempt: int, error: HubError) -> None:
    """Wait before another attempt: as long as the Hub asked, else 1, 2, 4... seconds."""
    time.sleep(error.wait_s or float(2 ** (attempt - 1)))


def _outcome(call: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What `call` returns or raises; outside of its handler, so that no later error carries it along."""
    try:
        return call(), None
    except Exception as error:  # requests, httpx and httpx2, by version of the client, share no base class
        return None, error


def _cause(problem: Exception) -> Any:
    """The exception that tells most: the client wraps those of uploads and downloads."""
    chain = _chain(problem)
    return next((error for error in chain if getattr(error, "response", None) is not None), chain[-1])


def _chain(problem: BaseException) -> list[BaseException]:
    """An exception and what caused it, the root last."""
    chain = [problem]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _retry_after(response: Any) -> float:
    value = str(getattr(response, "headers", {}).get("Retry-After", "")).strip()
    return float(value) if value.isdigit() else 0.0


def _advice(cause: Any, status: int, wait_s: float) -> str:
    names = {parent.__name__ for parent in type(cause).__mro__}
    if "GatedRepoError" in names:
        return 'the repository is gated; accept its terms on its page, then run "hf auth login"'
    if "RevisionNotFoundError" in names:
        return "there is no such branch, tag or commit; look them up on its page"
    if "EntryNotFoundError" in names:
        return "there is no such file at this revision"
    if "RepositoryNotFoundError" in names or status == 404:
        return "check the spelling, and that the token may see it"
    if status == 401:
        return 'the token is missing or not valid; run "hf auth login", or set HF_TOKEN'
    if status == 403:
        return "the token may not do this; use one with write access there"
    if status in CONFLICTS:
        return "somebody else changed it meanwhile; run the same command again"
    if status == 429:
        return f"wait {wait_s:.0f} s, then run the same command again" if wait_s else "try again later"
    if status >= 500:
        return "the Hub has a fault; run the same command again later, what arrived is not sent twice"
    return "check what was asked for"
