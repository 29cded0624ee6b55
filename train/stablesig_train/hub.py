"""Autoencoders from the Hugging Face Hub: from the local cache, else downloaded, and only the files needed.

The client is huggingface_hub, so HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and a stored token do what its users
expect. Messages here never quote the client's, so that nothing it was given (a token, an address with a
password) is printed.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from stablesig_detector.errors import DecoderError
from stablesig_train.layout import SUPPORTED, TAEF2_DECODER, TAEF2_ENCODER, WEIGHT_NAMES, needed_files

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CACHEABLE = [
    *(f"{folder}{name}" for folder in ("vae/", "") for name in ("config.json", *WEIGHT_NAMES)),
    TAEF2_ENCODER,
    TAEF2_DECODER,
]


def is_repo_id(source: str) -> bool:
    """Whether `source` has the form ORG/NAME."""
    return _REPO_ID.fullmatch(source) is not None


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """The local folder of a repository's snapshot with the autoencoder in it; it is named for the commit.

    A revision (branch, tag or commit) that the cache holds is not asked for again; the cache is asked for
    "main" when no revision is given. Raises DecoderError when the repository cannot be reached, is unknown or
    gated, or has no autoencoder.
    """
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError as error:
        raise DecoderError('huggingface-hub is not installed; pip install "stablesig[train]"') from error
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise DecoderError(
            f"{repo_id} is no file or folder, nor a valid Hub id (ORG/NAME); give {SUPPORTED}"
        ) from error
    return _cached(repo_id, revision) or _download(repo_id, revision)


def _cached(repo_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = {
        name: location
        for name in _CACHEABLE
        if isinstance(location := try_to_load_from_cache(repo_id, name, revision=revision), str)
    }
    needed = needed_files(found)
    # a snapshot's files lie at their own paths under the folder of the commit
    return Path(found[needed[0]].removesuffix(needed[0])) if needed else None


def _download(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    place = f"{repo_id}{f' at revision {revision}' if revision else ''} on {_host(constants.ENDPOINT)}"
    try:
        listed = HfApi().model_info(repo_id, revision=revision).siblings or []
        needed = needed_files({file.rfilename for file in listed})
        if not needed:
            raise DecoderError(f"{place} has no autoencoder that can be loaded; give {SUPPORTED}")
        licences = needed[0].rpartition("/")[0]
        patterns = [*needed, f"{licences}/LICENSE*" if licences else "LICENSE*"]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except DecoderError:
        raise
    except errors.GatedRepoError as error:
        raise DecoderError(
            f'{place} is gated; accept its terms on its page, then run "hf auth login"'
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DecoderError(
            f"{place} does not exist, though the repository does; look up its branches and tags"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DecoderError(
            f'{place} was not found; check the spelling, and run "hf auth login" if the repository is private'
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise DecoderError(
            f"{place} is not in the local cache, and HF_HUB_OFFLINE is set; unset it or give a folder"
        ) from error
    except OSError as error:
        if isinstance(error, errors.HfHubHTTPError):
            raise DecoderError(
                f"{place} answered {_status(error)}; try again later, or give a folder"
            ) from error
        raise _unreachable(place, error) from error
    except Exception as error:  # requests, httpx and httpx2, by version of the client, share no base class
        raise _unreachable(place, error) from error


def _unreachable(place: str, error: Exception) -> DecoderError:
    return DecoderError(
        f"{place} could not be downloaded ({type(error).__name__}) and is not in the local cache; "
        "check the network and HF_ENDPOINT, or give a folder"
    )


def _status(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else "with an error"


def _host(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or "the Hub"
