# The allocator service. Build from the project's root: docker build -f deploy/allocator.Dockerfile -t rollout-budget-allocator .
FROM docker.io/library/python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rollout_budget rollout_budget
COPY services services
RUN python -m venv /app && /app/bin/pip install --no-cache-dir -c constraints.txt '.[allocator]'

FROM docker.io/library/python:3.11-slim-bookworm
COPY --from=build /app /app
USER 10001:10001
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 \
    ROLLOUT_BUDGET_ALLOCATOR_MODE=production ROLLOUT_BUDGET_ALLOCATOR_HOST=0.0.0.0 ROLLOUT_BUDGET_ALLOCATOR_PORT=8100
EXPOSE 8100
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8100/readyz', timeout=4)"]
CMD ["python", "-m", "services.allocator", "serve"]
