"""Where weights lie: a file, a folder, or a repository of the Hugging Face hub. Loads nothing, imports no torch.

The hub is asked only where the settings allow it; without that, its local cache still counts. Code that comes with
weights is never run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
SAMPLED_BYTES = 2**20
"""Read from either end of a weights file to tell it from another: a whole file of gigabytes would hold up each start."""


class Unloadable(RuntimeError):
    """Weights or a package are not there or not what they should be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A place to take files from.

    Attributes:
        source: a file, a folder, or a repository name `owner/name` of the hub.
        revision: branch, tag or commit on the hub; None is its main branch.
        hub: whether a download is allowed.
    """

    source: str
    revision: str | None = None
    hub: bool = False

    @property
    def local(self) -> Path | None:
        """The file or folder, if `source` is one."""
        path = Path(self.source).expanduser()
        return path if path.exists() else None

    @property
    def is_path(self) -> bool:
        """Whether `source` can only be meant as a file or folder."""
        return self.source.startswith(("/", ".", "~"))

    def file(self, name: str) -> Path:
        """Return the local path of `name`, fetched from the hub if need be; `name` may have folders.

        A `source` that is a file is that file, whatever its name. In a folder, `name` without its own folders will do.

        Raises:
            Unloadable: it is not there.
        """
        local = self.local
        if local is not None:
            choices = (local,) if local.is_file() else (local / name, local / Path(name).name)
            for path in choices:
                if path.is_file():
                    return path
            raise Unloadable(f"the folder {local} has no file {Path(name).name}")
        return self._fetched(name)

    def _fetched(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  needed by some settings only

        if self.is_path or self.source.count("/") != 1:
            raise Unloadable(f"there is no such file or folder: {self.source}")
        try:
            return Path(hf_hub_download(self.source, name, revision=self.revision, local_files_only=not self.hub))
        except Exception as error:
            raise Unloadable(f"{name} of {self.source} cannot be had: {self.reason(error)}") from error

    def reason(self, error: Exception) -> str:
        """Say in one line why something did not load."""
        if self.local is None and self.is_path:
            return "there is no such folder"
        if self.local is None and not self.hub:
            return (
                "it is no local folder, not in the local hub cache, and downloads are off "
                "(ROLLOUT_BUDGET_PRIOR_HUB=true allows them)"
            )
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"

    @property
    def fingerprint(self) -> str:
        """Twelve characters that change with the weights: of local files a hash over names, sizes and either end.

        On the hub a revision stands for them; a branch may move, so pin a commit.
        """
        if self.local is None:
            return self.revision or "main"
        digest = hashlib.sha256()
        folder = [self.local] if self.local.is_file() else sorted(self.local.iterdir())
        for path in folder:
            if path.is_file() and path.suffix in {*SUFFIXES, ".json", ".txt"}:
                digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
                with path.open("rb") as stream:
                    digest.update(stream.read(SAMPLED_BYTES))
                    stream.seek(max(0, path.stat().st_size - SAMPLED_BYTES))
                    digest.update(stream.read(SAMPLED_BYTES))
        return digest.hexdigest()[:12]

    @property
    def title(self) -> str:
        """The last part of a path, or the repository's name."""
        return self.source if self.local is None else self.local.resolve().name

    def stated_licence(self) -> str | None:
        """Return the licence that the model card beside the weights states, None where there is none."""
        try:
            card = self.file("README.md") if self.local is None or self.local.is_dir() else None
        except Unloadable:
            return None
        return None if card is None else licence_of(card.read_text("utf-8", errors="replace"))


def licence_of(card: str) -> str | None:
    """Return `license_name`, or else `license`, from the front matter of a model card."""
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, colon, value = line.partition(":")
        if colon and key in {"license", "license_name"}:
            found[key] = value.strip().strip("\"'")
    return found.get("license_name") or found.get("license") or None
