# The prior service. Build from the project's root:
#   docker build -f deploy/prior.Dockerfile -t rollout-budget-prior .                         packaged encoder, on the CPU
#   docker build -f deploy/prior.Dockerfile --target gpu -t rollout-budget-prior-gpu .        V0's stack, on an NVIDIA GPU
# A digest pins more than a tag: --build-arg PYTHON=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON} AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /app

# PyTorch in a layer that no change of the project touches; its headers and tests are no use to a service.
FROM base AS torch-cpu
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    (python -m pip --python /app/bin/python install 'torch==2.13.0+cpu' \
        || python -m pip --python /app/bin/python install --extra-index-url "$CPU_WHEELS" 'torch==2.13.0+cpu') \
    && cd /app/lib/python3*/site-packages/torch && rm -rf include share test bin/test_*

FROM base AS torch-gpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /app/bin/python install 'torch==2.13.0'

# What else is depended on, made anew only when these files change; pip's cache stays outside the image.
FROM torch-cpu AS dependencies-cpu
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m pip --python /app/bin/python install -c constraints.txt '.[prior]' \
    && python -m pip --python /app/bin/python uninstall -y rollout-budget \
    && find /app -type d -name tests -prune -exec rm -rf {} +

FROM torch-gpu AS dependencies-gpu
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m pip --python /app/bin/python install -c constraints.txt '.[prior,prior-tabicl]' \
    && python -m pip --python /app/bin/python uninstall -y rollout-budget \
    && find /app -type d -name tests -prune -exec rm -rf {} +

FROM base AS own
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rollout_budget rollout_budget
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /app/bin/python install --no-deps --prefix=/own .

FROM ${PYTHON} AS service
USER 10001:10001
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=prior \
    ROLLOUT_BUDGET_PRIOR_MODE=production ROLLOUT_BUDGET_PRIOR_HOST=0.0.0.0 ROLLOUT_BUDGET_PRIOR_PORT=8101
EXPOSE 8101
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8101/readyz', timeout=4)"]
CMD ["python", "-m", "services.prior_api"]

# On a GPU models are compiled at run time, and Triton's launchers need a C compiler for that: the one image with one.
FROM service AS gpu
LABEL org.opencontainers.image.title="rollout-budget prior service, GPU" org.opencontainers.image.licenses=Apache-2.0
USER root
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=dependencies-gpu /app /app
COPY --from=own /own /app

FROM service AS cpu
LABEL org.opencontainers.image.title="rollout-budget prior service" org.opencontainers.image.licenses=Apache-2.0
COPY --from=dependencies-cpu /app /app
COPY --from=own /own /app
