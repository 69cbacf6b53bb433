"""How full a process is: what it uses of its machine, and the bound of the work that its edge admits at once.

Owns no measurement of its own: the process figures are those that every Prometheus client gives (`process_...`). The work
admitted now is the edge's gauge (`rollout_budget_admitted_units`); here is what it is compared with.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from services.kit.admission import Limits


def install(registry: CollectorRegistry, limits: Limits) -> None:
    """Show CPU, memory and open files of this process, and the bounds of its edge (units and requests)."""
    ProcessCollector(registry=registry)
    units = Gauge("rollout_budget_admission_bound_units", "Units of work admitted at once at most.", registry=registry)
    units.set(limits.units)
    queue = Gauge("rollout_budget_queue_bound_requests", "Requests that wait at most.", registry=registry)
    queue.set(limits.queue)
