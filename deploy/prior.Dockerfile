# The prior service, embedded encoder on the CPU. Build: docker build -f deploy/prior.Dockerfile -t rollout-budget-prior .
FROM docker.io/library/python:3.11-slim-bookworm AS build
WORKDIR /src
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rollout_budget rollout_budget
COPY services services
RUN python -m venv /app \
    && (/app/bin/pip install --no-cache-dir 'torch==2.13.0+cpu' \
        || /app/bin/pip install --no-cache-dir --extra-index-url "$CPU_WHEELS" 'torch==2.13.0+cpu') \
    && /app/bin/pip install --no-cache-dir -c constraints.txt '.[prior]'

FROM docker.io/library/python:3.11-slim-bookworm
COPY --from=build /app /app
USER 10001:10001
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HOME=/tmp \
    ROLLOUT_BUDGET_PRIOR_MODE=production ROLLOUT_BUDGET_PRIOR_HOST=0.0.0.0 ROLLOUT_BUDGET_PRIOR_PORT=8101
EXPOSE 8101
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8101/readyz', timeout=4)"]
CMD ["python", "-m", "services.prior_api"]
