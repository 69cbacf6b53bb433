"""On what terms weights may be used: stated at start-up, and refused where nobody has accepted them.

Facts as their publishers state them on the pages named in `docs/prior-models.md`; this is no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import structlog

from rollout_budget.wire import ModelPart
from services.prior_api.weights import Weights

FREE = re.compile(r"^(apache-2\.0|mit|bsd(-[23]-clause)?|isc|cc0-1\.0|cc-by-4\.0|unlicense)$")
NOT_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|non-?commercial", re.IGNORECASE)

_log = structlog.get_logger(__name__)


def of_card(name: str, weights: Weights) -> ModelPart:
    """State what the model card beside the weights says; unknown where it says nothing that is known here."""
    licence = weights.stated_licence()
    commercial: bool | None = None
    if licence is not None and FREE.match(licence.lower()):
        commercial = True
    elif licence is not None and NOT_COMMERCIAL.search(licence):
        commercial = False
    return ModelPart(
        name=name, licence=licence or "not stated beside the weights", source=weights.source, commercial_use=commercial
    )


def require(parts: Sequence[ModelPart], accepted: Sequence[str]) -> None:
    """Refuse weights that are not for commercial use unless they were accepted by name.

    Raises:
        ValueError: some were not; the message says how to.
    """
    missing = [part for part in parts if part.commercial_use is False and part.name not in accepted]
    if missing:
        names = ", ".join(f"{part.name} ({part.licence})" for part in missing)
        wanted = ",".join(f'"{name}"' for name in sorted({*accepted, *(part.name for part in missing)}))
        raise ValueError(
            f"not for commercial use: {names}. If your use keeps to that licence, set "
            f"ROLLOUT_BUDGET_PRIOR_ACCEPT_LICENCES='[{wanted}]'; otherwise choose another head or encoder "
            "(docs/prior-models.md)"
        )


def announce(parts: Sequence[ModelPart]) -> None:
    """Log one line for each part, at a level that says how free it is."""
    for part in parts:
        facts = {"name": part.name, "licence": part.licence, "source": part.source}
        if part.commercial_use is False:
            _log.warning("NOT FOR COMMERCIAL USE, accepted by the settings", **facts)
        elif part.commercial_use is None:
            _log.warning("licence not known here: read it before you rely on these weights", **facts)
        else:
            _log.info("model", **facts)
