# Run by the service `trainer-key`: the team `trainer` and a key of it in a file that its trainers read. Safe to repeat.
set -eu
key=/secrets/trainer/team.key
[ ! -s "$key" ] || { echo "$key is there"; exit 0; }
rm -f "$key"
admin() { rollout-budget admin "$@" --key-file /secrets/admin/admin.key; }
tries=60  # of a second or more: the allocator may be starting
while :; do
  code=0
  admin teams create trainer --name "Trainer of the stack" >/dev/null || code=$?
  [ "$code" -ne 0 ] || break
  tries=$((tries - 1))
  [ "$code" -eq 3 ] || exit "$code"  # it answered, and refused: the line above says why
  [ "$tries" -gt 0 ] || { echo "the allocator did not answer: start it, then this again" >&2; exit 1; }
  sleep 1
done
admin keys create trainer --label compose --file "$key" >/dev/null
echo "$key is made"
