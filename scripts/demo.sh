#!/usr/bin/env bash
# Shows smpq at work on the data of a real router, on a private PostgreSQL that
# is gone afterwards. It needs bin/smpq; see the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."

demo=$(mktemp -d /var/tmp/smpq-demo.XXXXXX)
chmod 755 "$demo" # the server does not run as root
trap 'rm -rf "$demo"' EXIT
PATH=$PWD/bin:$PATH
data=$PWD/testdata/smp-server-6.5.5
cd "$demo"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
	printf '\n$ %s\n' "$*"
	"$@"
}
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

cp "$data/1-storelog/memory/1-raw.log" smp-server-store.log
cat > tour.sh <<'TOUR'
say "1. A store log of smp-server, as it was written. What is in it?"
show smpq inspect log smp-server-store.log

say "2. Import it, for the schema of smp-server 6.5, into the private PostgreSQL."
show smpq import storelog smp-server-store.log --for smp-server-6.5

say "   Once more: nothing happens."
show smpq import storelog smp-server-store.log

say "3. What is in the database?"
show smpq inspect counts
show smpq inspect service list
show smpq inspect queue De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA

say "4. Export it again. smp-server wrote the same bytes from its own import."
show smpq export storelog exported.log
show cmp exported.log "$data/2-import/memory-1-raw/exported-store.log" && echo "(equal)"

say "5. Delete a few queues as a router does, and remove them after three weeks."
show psql --quiet --command "update smp_server.msg_queues set deleted_at = 86400 * (extract(epoch from now())::bigint / 86400 - 30)
    where recipient_id in (select recipient_id from smp_server.msg_queues limit 5)"
show smpq compact --ttl 21d --dry-run
show smpq compact --ttl 21d

say "6. To the newest schema and back."
show smpq migrate status
show smpq migrate up
show smpq migrate to 20250903 --yes

say "7. A log cut off in the middle of a record stops an import, with the place."
cp "$data/1-storelog/memory/5-torn.log" torn.log
show smpq import storelog torn.log --schema torn || echo "(exit status $?)"
show smpq import storelog torn.log --schema torn --max-rejects 1 --rejects torn.rejects || echo "(exit status $?)"

say "8. A log of 100,000 queues, made up."
show smpq gen storelog big.log --queues 100000
show smpq import storelog big.log --schema big
show smpq compact storelog big.log
TOUR
export data
export -f say show
show smpq version
show smpq local run --data "$demo/data" -- bash -euo pipefail tour.sh

say "9. A router of our own, on a database of its own, and a message through it."
printf '\n$ smpq serve --data %s --set TRANSPORT.port=0 &\n' "$demo/router"
smpq serve --data "$demo/router" --set TRANSPORT.port=0 2>serve.log &
router=$!
until grep -q msg=serving serve.log; do
	kill -0 "$router" || { cat serve.log; exit 1; }
	sleep 0.1
done
cat serve.log
port=$(sed -n 's/.*msg=serving address=.*:\([0-9]*\) identity.*/\1/p' serve.log)
password=$(sed -n 's/^create_password = //p' "$demo/router/router/smp-server.ini")
show smpq probe "smp://$(cat "$demo/router/router/fingerprint"):$password@127.0.0.1:$port"
kill "$router"
wait "$router"
say "That was smpq. The private PostgreSQL and all files of the demo are gone."
