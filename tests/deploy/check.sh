#!/usr/bin/env bash
# Is a fleet that `docker compose up --wait` has started whole, and does it keep its promises?
#
#   docker compose up -d --wait && tests/deploy/check.sh
#
# It submits, polls and streams; kills the worker in the middle of streams, and sees them go on without a seam; runs
# two workers; restarts Redis under a queue; takes everything down while jobs run, and finds them done after the next
# start. Needs docker compose, curl and python3. What it leaves behind is a fleet that runs.
set -euo pipefail

URL=http://127.0.0.1:${PORT:-8080}
DIR=$(mktemp -d)
trap 'rm -rf "$DIR"' EXIT
JSON='Content-Type: application/json'
curl() { command curl ${API_KEY:+-H "Authorization: Bearer $API_KEY"} "$@"; }

say() { echo "check: $*"; }
fail() { echo "check: FAILED: $*" >&2; exit 1; }

# body PROMPT TOKENS
body() { printf '{"inputs": "%s", "parameters": {"max_new_tokens": %d, "ignore_eos": true}}' "$1" "$2"; }

# field NAME < JSON: a field of an object, `a.b` of one within.
field() { python3 -c 'import functools, json, sys
print(functools.reduce(lambda o, k: o[k], sys.argv[1].split("."), json.load(sys.stdin)))' "$1"; }

# submit PROMPT TOKENS: the job's id
submit() { curl -fsS "$URL/jobs" -H "$JSON" -d "$(body "$1" "$2")" | grep -o '[0-9a-f]\{32\}' | head -n 1; }

# poll ID: how it stands when it has ended, or after five minutes. A gateway that waits for its Redis says 503, which is
# not an end.
poll() {
  local status
  for _ in 1 2 3 4 5; do
    status=$(curl -fsS --retry 30 --retry-delay 1 "$URL/jobs/$1?wait=60" | field status)
    case $status in queued | in_progress) ;; *) break ;; esac
  done
  echo "$status"
}

# all_complete WHAT ID...
all_complete() {
  local what=$1 id status; shift
  for id; do
    status=$(poll "$id")
    [ "$status" = completed ] || fail "$what: job $id is $status"
  done
  say "$what: $# of $# completed"
}

# pending ID WHAT: the job must not have ended yet, or nothing would be proved.
pending() { [ "$(curl -fsS "$URL/jobs/$1" | field status)" != completed ] || fail "$2"; }

# whole FILE TOKENS: whether an SSE transcript has each token once, in order, and ends well.
whole() { python3 - "$@" <<'PY'
import json, sys
events = [json.loads(line[5:]) for line in open(sys.argv[1]) if line.startswith("data:")]
tokens = [e["seq"] for e in events if e["type"] == "token"]
assert tokens == list(range(int(sys.argv[2]))), f"{len(tokens)} tokens, {tokens[:3]} … {tokens[-3:]}"
assert events[-1]["type"] == "done", events[-1]
print(sum(e["type"] == "resumed" for e in events))
PY
}

serving() { curl -fsS "$URL/info" | python3 -c 'import json, sys
print(sum(w["state"] == "serving" for w in json.load(sys.stdin)["workers"]))'; }

# until COMMAND...: try for a minute
until_true() { for _ in $(seq 120); do "$@" && return 0; sleep .5; done; fail "waited a minute for: $*"; }

[ "$(curl -s -o /dev/null -w '%{http_code}' "$URL/readyz")" = 200 ] || fail "up --wait returned, and nothing is ready"
say "ready"

# 1. Submit, poll, stream
id=$(submit 'Once upon a time' 64)
all_complete "submit and poll" "$id"
curl -fsSN "$URL/jobs/$id/stream" > "$DIR/stream"
whole "$DIR/stream" 64 > /dev/null
say "stream: 64 tokens, once each"

# 2. The worker dies in the middle of streams
tokens=2000 ids=() curls=()
for n in 1 2 3 4; do
  id=$(submit "A story about the number $n" $tokens)
  ids+=("$id")
  curl -fsSN --max-time 180 "$URL/jobs/$id/stream" > "$DIR/$n" & curls+=($!)
done
begun() { [ "$(grep -c '^data:' "$DIR/1")" -ge 20 ]; }
until_true begun
before=$(docker compose ps -q worker | xargs docker inspect -f '{{.RestartCount}}')
# All of the container's processes but the first, which ends with them. Who kills cannot say how it went.
docker compose exec -T worker python -c 'import os; os.kill(-1, 9)' > /dev/null 2>&1 || true
for pid in "${curls[@]}"; do wait "$pid" || fail "a stream broke off"; done
resumed=0
for n in 1 2 3 4; do resumed=$((resumed + $(whole "$DIR/$n" $tokens))) || fail "stream $n has a seam"; done
[ "$resumed" -gt 0 ] || fail "the worker was killed after its streams had ended: nothing was resumed"
after=$(docker compose ps -q worker | xargs docker inspect -f '{{.RestartCount}}')
[ "$after" -gt "$before" ] || fail "the worker was not started again"
all_complete "worker killed in mid-stream, $resumed of 4 streams went on" "${ids[@]}"

# 3. Two workers
docker compose up -d --wait --wait-timeout 180 --no-recreate --scale worker=2 > "$DIR/log" 2>&1 || { cat "$DIR/log"; fail "--scale"; }
two() { [ "$(serving)" = 2 ]; }
until_true two
ids=(); for n in $(seq 40); do ids+=("$(submit "Number $n" 32)"); done
all_complete "two workers" "${ids[@]}"

# 4. Redis restarts under a queue
ids=(); for n in $(seq 60); do id=$(submit "Number $n of sixty" 300); ids+=("$id"); done
pending "$id" "all jobs were done before Redis restarted"
docker compose restart redis > "$DIR/log" 2>&1
all_complete "Redis restarted under a queue" "${ids[@]}"

# 5. Down drains: who waits on a connection is answered, what is queued is done after the next start
ids=(); for n in $(seq 20); do id=$(submit "Number $n of twenty" 1000); ids+=("$id"); done
curl -fsS --max-time 120 "$URL/generate" -H "$JSON" -d "$(body 'The last one' 100)" > "$DIR/last" & last=$!
sleep 1
pending "$id" "all jobs were done before the fleet went down"
SECONDS=0
docker compose down > "$DIR/log" 2>&1 || { cat "$DIR/log"; fail "down"; }
say "down took $SECONDS s"
wait $last || fail "a client that waited got no answer while the fleet went down"
[ -n "$(field generated_text < "$DIR/last")" ] || fail "a client that waited got an empty answer"
docker compose up -d --wait --wait-timeout 300 > "$DIR/log" 2>&1 || { cat "$DIR/log"; fail "up again"; }
all_complete "jobs of before the fleet went down" "${ids[@]}"

say "all is well"
