#!/bin/sh
# Write the ACL with the passwords of the environment, then become redis-server.
#
# REDIS_GATEWAY_PASSWORD is the password of the user `gateway`, and so on for each user of users.acl. A user without a
# password is left out. Only hashes are written, and only to /run/redis, which is memory.
set -eu
umask 077

template=/usr/local/etc/redis/users.acl
acl=/run/redis/users.acl

: > "$acl"
while IFS= read -r line; do
  case $line in
    'user '*' >'*)
      user=${line#user }; user=${user%% *}
      name=$(echo "REDIS_${user}_PASSWORD" | tr '[:lower:]-' '[:upper:]_')
      password=$(printenv "$name" || true)
      [ -n "$password" ] || continue
      case $password in change-me*) echo "start.sh: $name is the example's: set your own" >&2 ;; esac
      hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
      # The password is the word that begins with > in the template.
      printf '%s\n' "$line" | sed "s/ >[^ ]*/ #$hash/" >> "$acl" ;;
    'user '*) printf '%s\n' "$line" >> "$acl" ;;
  esac
done < "$template"

# The server itself has no use for them.
for name in $(env | sed -n 's/^\(REDIS_[A-Z_]*_PASSWORD\)=.*/\1/p'); do unset "$name"; done

exec redis-server /usr/local/etc/redis/redis.conf --maxmemory "${REDIS_MAXMEMORY:-1gb}" "$@"
