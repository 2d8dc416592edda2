#!/usr/bin/env bash
# Does the one container that has everything do as TGI's would? Needs docker, curl, python3, and the image of a worker:
#
#   WORKER_IMAGE=sagrada-worker-cpu:local tests/deploy/check_one.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

NAME=sagrada-check-$$ VOLUME=sagrada-check-$$ PORT=${ONE_PORT:-18081}
URL=http://127.0.0.1:$PORT
trap 'docker rm -f "$NAME" > /dev/null 2>&1; docker volume rm "$VOLUME" > /dev/null 2>&1' EXIT

say() { echo "check: $*"; }
fail() { echo "check: FAILED: $*" >&2; docker logs --tail 40 "$NAME" >&2 || true; exit 1; }
health() { docker inspect -f '{{.State.Health.Status}}' "$NAME"; }
start() {
  docker run -d --name "$NAME" -p "127.0.0.1:$PORT:80" -v "$VOLUME:/data" --read-only --tmpfs /tmp --cap-drop ALL \
    sagrada:check --model-id demo --max-batch-size 8 --waiting-served-ratio 1.2 > /dev/null
  for _ in $(seq 180); do [ "$(health)" = healthy ] && return; [ "$(health)" = unhealthy ] && break; sleep 1; done
  fail "it is $(health)"
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

docker build -q -f deploy/sagrada.Dockerfile --build-arg "WORKER_IMAGE=${WORKER_IMAGE:-sagrada-worker-cpu}" -t sagrada:check . > /dev/null

said=$(docker run --rm sagrada:check --model-id demo --quantize awq 2>&1) && fail "--quantize was taken"
[[ $said == *"--quantize is not Sagrada's: "* ]] || fail "a refusal without its sentence: $said"
say "refused: $said"

start
docker logs "$NAME" 2>&1 | grep -q -- '--waiting-served-ratio has no effect' || fail "nothing is said of an idle flag"
curl -fsS "$URL/generate" -H 'Content-Type: application/json' \
  -d '{"inputs": "Once upon a time", "parameters": {"max_new_tokens": 32}}' | field generated_text > /dev/null
[ "$(curl -fsS "$URL/info" | python3 -c 'import json, sys; print(json.load(sys.stdin)["workers"][0]["slots"])')" = 8 ] ||
  fail "--max-batch-size was not taken"
id=$(curl -fsS "$URL/jobs" -H 'Content-Type: application/json' -d '{"inputs": "Kept", "parameters": {"max_new_tokens": 8}}' | field id)
[ "$(curl -fsS "$URL/jobs/$id?wait=60" | field status)" = completed ] || fail "a job did not complete"
say "serves"

docker stop -t 90 "$NAME" > /dev/null
[ "$(docker inspect -f '{{.State.ExitCode}}' "$NAME")" = 0 ] || fail "it did not stop in good order"
docker rm "$NAME" > /dev/null
start
[ "$(curl -fsS "$URL/jobs/$id" | field status)" = completed ] || fail "its volume has lost a job"
say "stops in good order, and finds its jobs again"
