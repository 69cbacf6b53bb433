# The training client. Build from the project's root:
#   docker build -f deploy/trainer.Dockerfile -t rollout-budget-trainer .                      learner on the CPU
#   docker build -f deploy/trainer.Dockerfile --target gpu -t rollout-budget-trainer-gpu .     learner on NVIDIA GPUs
# A digest pins more than a tag: --build-arg PYTHON=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON} AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /app

# PyTorch in a layer that no change of the project touches; its headers and tests are no use to a trainer.
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
    touch README.md && python -m pip --python /app/bin/python install -c constraints.txt '.[trainer-data]' \
    && python -m pip --python /app/bin/python uninstall -y rollout-budget \
    && find /app -type d -name tests -prune -exec rm -rf {} +

FROM torch-gpu AS dependencies-gpu
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m pip --python /app/bin/python install -c constraints.txt '.[trainer-data,trainer-lora]' \
    && python -m pip --python /app/bin/python uninstall -y rollout-budget \
    && find /app -type d -name tests -prune -exec rm -rf {} +

FROM base AS own
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rollout_budget rollout_budget
COPY services services
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /app/bin/python install --no-deps --prefix=/own .

# Runs are written to /runs, which takes the user's volume or folder. HOME holds caches of libraries, nothing else.
FROM ${PYTHON} AS client
RUN install -d -o 10001 -g 10001 /runs
USER 10001:10001
WORKDIR /runs
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=trainer
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--help"]

FROM client AS gpu
LABEL org.opencontainers.image.title="rollout-budget trainer, GPU" org.opencontainers.image.licenses=Apache-2.0
COPY --from=dependencies-gpu /app /app
COPY --from=own /own /app

FROM client AS cpu
LABEL org.opencontainers.image.title="rollout-budget trainer" org.opencontainers.image.licenses=Apache-2.0
COPY --from=dependencies-cpu /app /app
COPY --from=own /own /app
