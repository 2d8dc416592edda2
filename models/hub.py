"""Where a model's files are: a folder, the built-in demo model, or the hub's cache."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm as hub_tqdm

from models.demo import WEIGHTS
from models.errors import ModelRefused
from models.step import LoadSpec, Progress

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")
"""What is fetched: configuration, weights that cannot run code, and the tokenizer's files."""

IGNORED = ("*/*", "consolidated*")
"""What is not: other formats of the same weights, which some repositories keep in folders or beside them."""


_REFUSALS: dict[type[Exception], str] = {
    GatedRepoError: "it is gated; accept its conditions on the hub and set HF_TOKEN",
    RepositoryNotFoundError: "the hub knows no such model, or it is private; check the name, or set HF_TOKEN",
    RevisionNotFoundError: "it has no such revision; check the branch, tag or commit",
}
"""In this order: a gated repository's error is a kind of unknown repository's."""


@dataclass(frozen=True, slots=True)
class Files:
    """A model's folder in Hugging Face format."""

    folder: Path
    revision: str
    """The commit on the hub; empty for a local folder."""


def resolve(spec: LoadSpec, progress: Progress) -> Files:
    """The folder of `spec.model_id`, fetched if it must be; ModelRefused if it is nowhere or holds no safetensors."""
    folder = Path(spec.model_id).expanduser()
    if spec.model_id == "demo":
        files = Files(WEIGHTS, "")
    elif folder.is_dir():
        files = Files(folder.resolve(), "")
    elif _is_path(spec.model_id):
        raise ModelRefused(
            f"there is no folder {spec.model_id!r}: give one that exists, or a name on the hub"
        )
    else:
        files = _fetch(spec, progress)
    return _checked(spec.model_id, files)


def _is_path(model_id: str) -> bool:
    """Whether this can only be meant as a folder: names on the hub are `name` or `owner/name`."""
    return model_id.startswith((".", "/", "~")) or model_id.count("/") > 1


def _checked(model_id: str, files: Files) -> Files:
    if not (files.folder / "config.json").is_file():
        raise ModelRefused(f"{model_id!r} has no config.json: it is not a model in Hugging Face format")
    if not any(files.folder.glob("*.safetensors")):
        raise ModelRefused(
            f"{model_id!r} has no weights in safetensors: other formats can run code when they are read; "
            "convert it, or use a revision that has them"
        )
    return files


def _fetch(spec: LoadSpec, progress: Progress) -> Files:
    """Bring the model's files into the hub's cache, or find them there when offline."""
    token, revision = spec.token or None, spec.revision or None
    try:
        if not spec.offline:
            _check_safetensors(spec.model_id, _files_on_hub(spec.model_id, revision, token))
        folder = snapshot_download(
            spec.model_id,
            revision=revision,
            cache_dir=spec.cache_dir or None,
            token=token,
            local_files_only=spec.offline,
            allow_patterns=list(PATTERNS),
            ignore_patterns=list(IGNORED),
            tqdm_class=_bar(progress),
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelRefused(f"{spec.model_id!r} cannot be fetched: {_why(error, spec)}") from error
    return Files(Path(folder), Path(folder).name)


def _why(error: Exception, spec: LoadSpec) -> str:
    """The hub's refusal, as what to do about it."""
    for kind, sentence in _REFUSALS.items():
        if isinstance(error, kind):
            return sentence
    if isinstance(error, LocalEntryNotFoundError):
        unreachable = "offline is set" if spec.offline else "the hub cannot be reached"
        return f"it is not in the cache, and {unreachable}"
    return " ".join(str(error).split())


def _files_on_hub(model_id: str, revision: str | None, token: str | None) -> list[str]:
    """The names of the repository's files; empty if the hub does not say."""
    try:
        info = HfApi(token=token).model_info(model_id, revision=revision)
    except Exception:  # whatever the HTTP client of this version raises: the download will say what is wrong
        return []
    return [file.rfilename for file in info.siblings or ()]


def _check_safetensors(model_id: str, names: list[str]) -> None:
    """Refuse before gigabytes are fetched."""
    if names and not any(name.endswith(".safetensors") for name in names):
        raise ModelRefused(
            f"{model_id!r} has no weights in safetensors on the hub: other formats can run code"
        )


def _bar(progress: Progress) -> Any:
    """A progress bar class for huggingface_hub that draws nothing and reports to `progress`."""
    lock = threading.Lock()  # files arrive on several threads, and `progress` writes to one pipe

    class Bar(hub_tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.stage = "download" if kwargs.get("unit") == "B" else "files"
            self.quiet = "transfer" in (kwargs.get("name") or "")  # the same bytes, counted on another path
            untyped: Any = super()
            untyped.__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            with lock:
                self.n += n or 0  # a disabled bar does not count
                if not self.quiet and self.total:
                    progress(self.stage, int(self.n), int(self.total or 0))

    return Bar
