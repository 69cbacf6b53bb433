"""TabPFN as V0 uses it (arXiv 2602.03584): four estimators on the features as they are, logits averaged, then softmax.

Needs the package `tabpfn` (extra `prior-tabpfn`). The code is free; **the weights of every version since 2.5 are not for
commercial use**, those of version 2 are. Which one a file holds is told by its published name. V0's own head is
`pretrained/tabpfn-v2.5-classifier-v2.5_default.ckpt` of the hub repository `Now-Join-Us/Generalist-Value-Model-V0`,
not changed in V0's training.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import ModelPart
from services.prior_api.heads.base import Float32Array
from services.prior_api.heads.tabular import Labels
from services.prior_api.weights import Unloadable, Weights

REPOSITORY = "Now-Join-Us/Generalist-Value-Model-V0"
CHECKPOINTS = {
    REPOSITORY: "pretrained/tabpfn-v2.5-classifier-v2.5_default.ckpt",
    "Prior-Labs/TabPFN-v2-clf": "tabpfn-v2-classifier-finetuned-zk73skhh.ckpt",
}
"""File in a repository of the hub; of another repository the file is part of the setting: `owner/name/file`."""
NAME = re.compile(r"^tabpfn-v(\d+(?:\.\d+)?)[-_.]")
FREE_VERSIONS = {"2": "Prior Labs License (Apache-2.0 with attribution)"}


class TabPFN:
    """Obeys `Classifier`.

    Args:
        weights: where `file` lies; see `locate`.
        device: `cpu` or `cuda`.
        estimators: passes with shuffled columns whose logits are averaged.

    Raises:
        Unloadable: the file's name does not say which version it holds, so its licence is not known.
    """

    def __init__(self, weights: Weights, file: str, *, device: str, estimators: int) -> None:
        found = NAME.match(Path(file).name)
        if found is None:
            raise Unloadable(
                f"{Path(file).name}: keep the published name of TabPFN weights (tabpfn-v2.5-...): "
                "version and licence are read from it"
            )
        version = found[1]
        licence = FREE_VERSIONS.get(version, f"TabPFN-{version} licence of Prior Labs: not for commercial use")
        self.part = ModelPart(
            name=f"tabpfn-{version}",
            licence=licence,
            source=f"{weights.source}/{file}" if weights.local is None else weights.source,
            commercial_use=version in FREE_VERSIONS,
        )
        self.version = f"tabpfn-{version}/{weights.fingerprint}"
        self._weights, self._file, self._device, self._estimators = weights, file, device, estimators
        self._model: Any = None

    def load(self) -> None:
        """See `Classifier`."""
        try:
            import torch  # noqa: PLC0415  seconds to import
            from tabpfn import TabPFNClassifier  # noqa: PLC0415  an extra
        except ImportError as error:
            raise Unloadable(
                "the head tabpfn needs the package tabpfn: pip install 'rollout-budget[prior-tabpfn]'"
            ) from error
        self._model = TabPFNClassifier(
            model_path=self._weights.file(self._file),
            device=self._device,
            n_estimators=self._estimators,
            inference_precision=torch.float32,
            differentiable_input=True,
            ignore_pretraining_limits=True,
            random_state=0,
        )
        trial = np.eye(4, dtype=np.float32)
        try:
            self.probabilities(trial, np.array([0, 1, 0, 1]), trial)
        except Exception as error:
            raise Unloadable(f"{self._weights.source}: {self._weights.reason(error)}") from error
        del self._model.ensemble_configs_, self._model.models_  # they are of the trial's width

    def probabilities(self, context: Float32Array, labels: Labels, targets: Float32Array) -> FloatArray:
        """See `Classifier`."""
        import torch  # noqa: PLC0415  as above

        rows, asked = (torch.from_numpy(array).to(self._device) for array in (context, targets))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own and its libraries' deprecations
            self._model.fit_with_differentiable_input(rows, torch.from_numpy(labels).to(self._device))
            logits = np.asarray(self._model.predict_logits(asked), dtype=np.float64)
        answers: FloatArray = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        return answers


def locate(source: str, *, revision: str | None = None, hub: bool = False) -> tuple[Weights, str]:
    """Return where weights lie and which file they are.

    Args:
        source: a file, a folder with one `tabpfn-v*` file, a repository of `CHECKPOINTS`, or `owner/name/file`.
        revision: on the hub.
        hub: whether a download is allowed.

    Raises:
        Unloadable: the folder has none or several, or the repository's file is not known.
    """
    weights = Weights(source, revision, hub)
    local = weights.local
    if local is not None and local.is_file():
        return weights, local.name
    if local is not None:
        names = sorted(path.name for path in local.iterdir() if NAME.match(path.name))
        if len(names) != 1:
            raise Unloadable(f"{local} has {len(names)} files named tabpfn-v*: name the one to take")
        return weights, names[0]
    if weights.is_path:
        raise Unloadable(f"there is no such file or folder: {source}")
    repository, file = "/".join(source.split("/")[:2]), "/".join(source.split("/")[2:])
    if not file and repository not in CHECKPOINTS:
        raise Unloadable(f"{source}: no such file or folder; of a hub repository name the file too (owner/name/file)")
    return Weights(repository, revision, hub), file or CHECKPOINTS[repository]
