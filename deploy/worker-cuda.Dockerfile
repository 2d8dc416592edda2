# A worker on an NVIDIA GPU. torch's wheels bring CUDA along, so that the base stays a plain Python.
#
#   docker build -f deploy/worker-cuda.Dockerfile -t sagrada-worker-cuda .

FROM python:3.11-slim-bookworm AS build
ENV PATH=/venv/bin:$PATH \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
WORKDIR /build
# torch by itself: the largest layer, and the one that changes least. A mirror: --build-arg TORCH_INDEX=https://…
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH=torch==2.13.0
COPY deploy/build/torch.py deploy/constraints.txt ./
RUN python torch.py "$TORCH_INDEX" "$TORCH"
# Dependencies next: a change of the code leaves this layer in the cache.
COPY deploy/build/requirements.py pyproject.toml ./
RUN python requirements.py cuda > requirements.txt && pip install -r requirements.txt
COPY LICENSE README.md ./
COPY wire wire
COPY gateway gateway
COPY worker worker
COPY models models
COPY sagrada sagrada
RUN pip install --no-deps .

FROM python:3.11-slim-bookworm
# As process 1 a Python would neither reap what it did not start nor die of a signal that it does not handle.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini=0.19.* \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 10001 -g 10001 /models
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    HF_HOME=/models \
    HOME=/tmp \
    USER=sagrada \
    DEVICE=cuda \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# Until a model is downloaded, loaded and warm, the container is starting, not ill.
HEALTHCHECK --interval=10s --timeout=8s --start-period=1h --retries=3 CMD ["python", "-m", "worker.health"]
ENTRYPOINT ["tini", "--", "sagrada", "worker"]
