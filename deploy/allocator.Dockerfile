# The allocator service; its image also makes the stack's secrets, migrates, and has the `rollout-budget` command.
# Build from the project's root: docker build -f deploy/allocator.Dockerfile -t rollout-budget-allocator .
# A digest pins more than a tag: --build-arg PYTHON=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

# What the service depends on: made anew only when these files change. pip stays outside the environment, and its cache
# outside the image.
FROM ${PYTHON} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m venv --without-pip /app \
    && python -m pip --python /app/bin/python install -c constraints.txt '.[allocator]' \
    && python -m pip --python /app/bin/python uninstall -y rollout-budget \
    && find /app -type d -name tests -prune -exec rm -rf {} +

FROM dependencies AS own
COPY README.md LICENSE ./
COPY rollout_budget rollout_budget
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /app/bin/python install --no-deps --ignore-installed --prefix=/own .

FROM ${PYTHON}
LABEL org.opencontainers.image.title="rollout-budget allocator" org.opencontainers.image.licenses=Apache-2.0
COPY --from=dependencies /app /app
COPY --from=own /own /app
# New volumes mounted here become the user's: the stack's first start writes secrets into them, others read them.
RUN for folder in database pepper admin prior grafana trainer; do install -d -o 10001 -g 10001 /secrets/$folder; done \
    && install -d -o 10001 -g 10001 /runs /models
USER 10001:10001
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ROLLOUT_BUDGET_ALLOCATOR_MODE=production ROLLOUT_BUDGET_ALLOCATOR_HOST=0.0.0.0 ROLLOUT_BUDGET_ALLOCATOR_PORT=8100
EXPOSE 8100
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8100/readyz', timeout=4)"]
CMD ["python", "-m", "services.allocator", "serve"]
