"""Exported folders to the Hugging Face Hub: nothing goes there that was not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prm_lightning.modeling.backbone import hub_token
from prm_lightning.sources.rows import HUB_ID

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Visibility = Literal["private", "public"]


def open_repository(repo: str, visibility: Visibility, *, overwrite: bool) -> HfApi:
    """A client that may write to a repository, asked before the long work; nothing is changed.

    Args:
        repo: ``owner/name``; it need not exist.
        visibility: that it will have, or has.
        overwrite: let it hold files already.

    Raises:
        ValueError: no such name can be, there is no token or the Hub does not accept it, or the
            repository holds files or can be seen by all and that was not asked for.
        OSError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if not HUB_ID.fullmatch(repo):
        raise ValueError(f"export: --push_to_hub {repo!r} is no name of the form owner/name.")
    token = hub_token()
    if token is None:
        raise ValueError(
            f"export: --push_to_hub {repo} needs a token. Make one that may write at "
            "https://huggingface.co/settings/tokens and set HF_TOKEN, in the environment or .env."
        )
    api = HfApi(token=token)
    with _explained(api, repo):
        api.whoami()
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError:
            return api
    files = [file.rfilename for file in info.siblings or [] if file.rfilename != ".gitattributes"]
    if files and not overwrite:
        raise FileExistsError(
            f"export: {repo} on the Hub holds {files[0]} already. Take another name or --overwrite."
        )
    if not info.private and visibility == "private":
        raise ValueError(
            f"export: {repo} exists and everybody can see it. Take another name, or say so with "
            "--visibility public."
        )
    return api


def push(api: HfApi, folder: Path, repo: str, visibility: Visibility) -> str:
    """Send a folder to a repository in one commit, so that nobody loads half of it.

    Weights that the repository holds and the folder does not are deleted, since servers load all.

    Args:
        api: from `open_repository`.
        folder: what to send.
        repo: where; it is made if it does not exist.
        visibility: of a repository that is made.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the Hub refuses.
        OSError: the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    hint = f" {folder} is complete: to send it later, `hf upload {repo} {folder}`."
    with _explained(api, repo, hint):
        api.create_repo(repo, private=visibility == "private", exist_ok=True)
        there = api.list_repo_files(repo)
        stale = [
            name
            for name in there
            if name.endswith((".safetensors", ".safetensors.index.json")) and name not in names
        ]
        operations: list[Any] = [CommitOperationDelete(name) for name in stale]
        operations += [CommitOperationAdd(name, folder / name) for name in names]
        message = "Process reward model exported by prm_lightning"
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)


@contextmanager
def _explained(api: HfApi, repo: str, hint: str = "") -> Iterator[None]:
    """One line in place of the library's many."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    owner = repo.partition("/")[0]
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = {
            401: "it does not accept the token: set HF_TOKEN to one that is valid",
            403: "the token may not write there: it needs write access, and its owner to be "
            f"{owner} or a member",
            404: "there is no such place: check the name",
        }.get(status, " ".join(str(error).split())[:200])
        raise ValueError(f"export: the Hub answers {status} for {repo}, {advice}.{hint}") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"export: HF_HUB_OFFLINE is set, so nothing can be sent to {repo}. Unset it.{hint}"
        ) from error
    except httpx2.TransportError as error:
        raise ConnectionError(
            f"export: {api.endpoint} cannot be reached for {repo} ({error}).{hint}"
        ) from error
