# Run by the service `trainer-key`: the team `trainer` and a key of it in a file that its trainers read. Safe to repeat.
set -eu
key=/secrets/trainer/team.key
[ ! -s "$key" ] || { echo "$key is there"; exit 0; }
rm -f "$key"
rollout-budget admin teams create trainer --name "Trainer of the stack" --key-file /secrets/admin/admin.key
rollout-budget admin keys create trainer --label compose --file "$key" --key-file /secrets/admin/admin.key >/dev/null
echo "$key is made"
