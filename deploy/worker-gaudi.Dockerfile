# A worker on Intel Gaudi. The base is Intel's: its torch and its driver's libraries belong together, and what is
# installed here must leave them alone, or the build fails.
#
#   docker build -f deploy/worker-gaudi.Dockerfile -t sagrada-worker-gaudi .
#
# Another release of Intel's software, which has to be the one that the host's driver has (`sagrada doctor` compares):
#   --build-arg GAUDI_IMAGE=vault.habana.ai/gaudi-docker/1.22.0/ubuntu24.04/habanalabs/pytorch-installer-2.7.1:1.22.0-…

ARG GAUDI_IMAGE=vault.habana.ai/gaudi-docker/1.24.1/ubuntu24.04/habanalabs/pytorch-upstream-installer-2.11.0:latest
# hadolint ignore=DL3006
FROM ${GAUDI_IMAGE} AS build
ENV PATH=/venv/bin:$PATH \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY deploy/build/untouched.py ./
RUN python3 untouched.py --remember torch.txt && python3 -m venv --system-site-packages /venv
# Dependencies first: a change of the code leaves this layer in the cache.
COPY deploy/build/requirements.py deploy/constraints-gaudi.txt pyproject.toml ./
RUN mv constraints-gaudi.txt constraints.txt \
 && python requirements.py gaudi > requirements.txt \
 && pip install -r requirements.txt \
 && python untouched.py torch.txt
COPY LICENSE README.md ./
COPY wire wire
COPY gateway gateway
COPY worker worker
COPY models models
COPY sagrada sagrada
RUN pip install --no-deps . && python untouched.py torch.txt

# hadolint ignore=DL3006
FROM ${GAUDI_IMAGE}
# As process 1 a Python would neither reap what it did not start nor die of a signal that it does not handle.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini=0.19.* \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 10001 -g 10001 /models /recipes
COPY --from=build /venv /venv
# What a Gaudi's software needs besides (PT_HPU_…) the launcher sets for its engine: docs/gaudi.md.
ENV PATH=/venv/bin:$PATH \
    HF_HOME=/models \
    HOME=/tmp \
    USER=sagrada \
    DEVICE=hpu \
    RECIPE_CACHE=/recipes \
    OMPI_MCA_btl_vader_single_copy_mechanism=none \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# Until a model is downloaded, compiled and warm, the container is starting, not ill.
HEALTHCHECK --interval=10s --timeout=8s --start-period=2h --retries=3 CMD ["python", "-m", "worker.health"]
ENTRYPOINT ["tini", "--", "sagrada", "worker"]
