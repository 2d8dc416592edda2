# The gateway: HTTP on one side, Redis on the other. No torch, no compiler, no root.
#
#   docker build -f deploy/gateway.Dockerfile -t sagrada-gateway .

FROM python:3.11-slim-bookworm AS build
ENV PATH=/venv/bin:$PATH \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
WORKDIR /build
# Dependencies first: a change of the code leaves this layer in the cache.
COPY deploy/build/requirements.py deploy/constraints.txt pyproject.toml ./
RUN python requirements.py > requirements.txt && pip install -r requirements.txt
COPY LICENSE README.md ./
COPY wire wire
COPY gateway gateway
COPY worker worker
COPY models models
COPY sagrada sagrada
RUN pip install --no-deps . && pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
# As process 1 a Python would neither reap what it did not start nor die of a signal that it does not handle.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini=0.19.* \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    USER=sagrada \
    HOST=0.0.0.0 \
    PORT=8080 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "gateway.health"]
ENTRYPOINT ["tini", "--", "python", "-m", "gateway"]
