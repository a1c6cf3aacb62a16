# The locked environment, for a CPU (the default) or with torch's CUDA libraries; docs/scale.md says how to use it.
#   docker build --tag nested-reft .
#   docker build --tag nested-reft:cuda --build-arg TORCH=cuda .
FROM python:3.11-slim-bookworm

ARG TORCH=cpu

LABEL org.opencontainers.image.title="nested-reft" \
      org.opencontainers.image.description="A reproducible replication of Nested-ReFT (arXiv 2508.10123)" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# git tells the manifests of runs which commit a mounted clone is at; with rsync, Kubernetes pods reach their volume.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make rsync \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /repo \
    && useradd --uid 1000 --create-home nested \
    # Caches go here, whatever user the container is run as.
    && chmod 777 /home/nested

# Made by the Makefile, so that there is only one way to make the environment. It sees no card here, whoever runs it.
WORKDIR /opt/nested-reft
COPY Makefile requirements.lock pyproject.toml README.md LICENSE ./
COPY src src
RUN case "$TORCH" in \
      cpu) PIP_NO_CACHE_DIR=1 make env ;; \
      cuda) PIP_NO_CACHE_DIR=1 make env TORCH_INDEX= ;; \
      *) echo "TORCH is '$TORCH'; it must be cpu or cuda" && exit 1 ;; \
    esac

# What runs is a clone: its workflow and its package take precedence over the one in the image. It is mounted at /repo,
# or, in a Kubernetes pod, copied by Snakemake to /workdir.
ENV PATH=/opt/nested-reft/.venv/bin:$PATH \
    PYTHONPATH=/repo/src:/workdir/src \
    HOME=/home/nested \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /repo
USER 1000
CMD ["snakemake", "--cores", "all"]
