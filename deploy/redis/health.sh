#!/bin/sh
# Whether Redis has read its data and answers, asked as the user `gateway`. The password is on no command line.
REDISCLI_AUTH=$REDIS_GATEWAY_PASSWORD
export REDISCLI_AUTH
[ "$(redis-cli --user gateway --no-auth-warning ping)" = PONG ]
