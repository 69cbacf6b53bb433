"""Grafana dashboards as code: what `python -m scripts.dashboards` writes to deploy/grafana/dashboards."""
