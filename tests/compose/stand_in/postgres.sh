# Starts PostgreSQL as the user of the container; a cluster is made on the first start, as the official entry point does.
set -euo pipefail
mkdir -p /var/run/postgresql
data=/var/lib/postgresql/data
if [[ ! -s $data/PG_VERSION ]]; then
  initdb -D "$data" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --auth-local=trust
  echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
  pg_ctl -D "$data" -w -o '-c listen_addresses=' start
  createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl -D "$data" -w stop
fi
exec postgres -D "$data" -c 'listen_addresses=*'
