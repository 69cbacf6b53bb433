"""The estimator under verl's own functions: `python -m tests.integrations.verl.contract REPORT.json`, in `.venv-hooks`.

Runs with verl's entry points off: first the plug-in is not there, then it is broken, then it is named. Batches go through `compute_advantage` of verl's older trainer, which looks the estimator up in verl's registry.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils.import_utils import import_external_libs
from verl.utils.skip import SkipManager
from verl.utils.tracking import Tracking

from rollout_budget.errors import RolloutBudgetError

TOKENS = 4
NAME = "rollout_budget"
PLUGIN, ESTIMATOR = "rollout_budget.integrations.verl.plugin", "rollout_budget.integrations.verl.estimator"


def algorithm(**settings: Any) -> Any:
    """Return verl's section with the run under it."""
    return OmegaConf.create({"use_kl_in_reward": False, NAME: settings})


def rows(*groups: tuple[str, list[float]], lengths: int = 3) -> DataProto:
    """Return a batch of these groups' rewards, each at its last token, as verl lays them out, with two rows that pad.

    One of them has an id of its own, as in verl's newer trainer, the other repeats the first rollout's.
    """
    uids = [uid for uid, rewards in groups for _ in rewards]
    rewards = [reward for _, group in groups for reward in group]
    mask = torch.zeros(len(uids) + 2, TOKENS, dtype=torch.int64)
    mask[: len(uids), :lengths] = 1
    levels = torch.zeros(len(uids) + 2, TOKENS)
    levels[: len(uids), lengths - 1] = torch.tensor(rewards)
    data = DataProto.from_dict({"token_level_rewards": levels, "response_mask": mask})
    data.non_tensor_batch["uid"] = np.array([*uids, "padding", uids[0]], dtype=object)
    return data


def gains(data: DataProto, config: Any) -> dict[str, Any]:
    """Return what verl gets, row by row."""
    data = compute_advantage(data, adv_estimator=NAME, num_repeat=4, config=config)
    advantages, returns = data.batch["advantages"], data.batch["returns"]
    return {
        "advantages": advantages.tolist(),
        "same": bool((advantages == returns).all()),
        "type": str(advantages.dtype),
    }


def fault(config: Any, *groups: tuple[str, list[float]]) -> str:
    """Return the error of a batch, and forget its run."""
    try:
        gains(rows(*groups), config)
    except RolloutBudgetError as error:
        return str(error)
    finally:
        sys.modules[ESTIMATOR]._Seat.books = None
    return ""


def loaded() -> dict[str, bool]:
    """Load the plug-in as `VERL_USE_EXTERNAL_MODULES` does, first without its estimator; return when it is registered."""
    known = core_algos.ADV_ESTIMATOR_REGISTRY
    found = {"left out": NAME in known or PLUGIN in sys.modules}
    print("-- broken", file=sys.stderr)  # noqa: T201
    sys.modules[ESTIMATOR] = None  # type: ignore[assignment] # Python's own mark of a module that cannot be imported
    try:
        import_external_libs([PLUGIN])
    except ImportError:
        found["broken"] = NAME in known
    del sys.modules[ESTIMATOR]
    print("-- named", file=sys.stderr)  # noqa: T201
    import_external_libs([PLUGIN])
    return {**found, "named": NAME in known}


def main(report: Path) -> None:
    done: dict[str, Any] = {"loaded": loaded(), "module": core_algos.get_adv_estimator_fn(NAME).__module__}
    done["faults"] = {
        "no run": fault(OmegaConf.create({"use_kl_in_reward": False}), ("f0", [1.0])),
        "kl": fault(OmegaConf.create({"use_kl_in_reward": True, NAME: {"run": "kl"}}), ("f0", [1.0])),
        "both": fault(algorithm(run="both", outcome="acc", outcome_above=0.5), ("f0", [1.0])),
        "rule": fault(algorithm(run="rule", estimator="mine"), ("f0", [1.0])),
    }
    log = Tracking("verl", "contract", ["file"])
    config = algorithm(run="verl-classic", policy="tiny", outcome_range={"low": -1, "high": 1}, outcome_above=-0.5)
    first = rows(("a", [1.0, -1.0, 0.25, 1.0]), ("b", [-1.0, -1.5, -1.0, -1.0]), ("alone", [1.0]))
    SkipManager.set_step(1)
    done["first"] = gains(first, config)
    log.log({"training/global_step": 1}, step=1)
    log.log({"val-core/acc": 0.5}, step=1)
    seat, books = sys.modules[ESTIMATOR]._Seat, sys.modules[ESTIMATOR]._Seat.books
    Tracking("verl", "another", ["console"]).finish()
    done["kept"] = seat.books is books
    SkipManager.set_step(2)
    done["second"] = gains(rows(("c", [1.0, 1.0, 1.0, 1.0])), config)
    log.log({"training/global_step": 2}, step=2)
    log.finish()
    done["left"] = seat.books is None

    plain = algorithm(run="plain")
    done["faults"]["range"] = fault(plain, ("g", [2.0, 1.0]))
    passed = rows(("d", [0.9, -0.1]))
    columns = {
        "acc": np.array([True, False, False, False]),
        "extra_info": np.array([{"index": 7, "split": "train"}] * 4, dtype=object),
        "data_source": np.array(["set"] * 4, dtype=object),
    }
    call = core_algos.get_adv_estimator_fn(NAME)
    advantages, _ = call(
        token_level_rewards=passed.batch["token_level_rewards"],
        response_mask=passed.batch["response_mask"],
        index=passed.non_tensor_batch["uid"],
        config=algorithm(run="passed"),
        non_tensor_batch=columns,
    )
    done["passed"] = advantages[:2, 0].tolist()
    report.write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
