# Redis as Sagrada needs it: an append-only file, no eviction, and users that may do their own work and no more.
#
#   docker build -f deploy/redis.Dockerfile -t sagrada-redis .

FROM redis:7.2-bookworm
COPY deploy/redis/redis.conf deploy/redis/users.acl /usr/local/etc/redis/
COPY deploy/redis/start.sh deploy/redis/health.sh /usr/local/bin/
# The uid of the official image's user; a new volume takes over whose the folder is.
RUN install -d -o 999 -g 999 /data /run/redis
USER 999:999
WORKDIR /data
EXPOSE 6379
# Redis answers LOADING, which is not PONG, until it has read its data.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10m --retries=3 CMD ["health.sh"]
ENTRYPOINT ["start.sh"]
