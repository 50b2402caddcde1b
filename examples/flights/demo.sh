#!/usr/bin/env bash
# What PSPF is for, on real flights: append by key, follow, kill a writer in the middle, append again, count.
# Needs the command `pspf` on the PATH. Everything happens in a directory that is removed at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
flights=${FLIGHTS:-$here/flights-2013-01.csv}

work=$(mktemp -d "${DEMO_DIR:-$PWD}/pspf-demo.XXXXXX")
export PSPF_STORE=$work/store
follower=
writer=
cleanup() {
    kill $follower $writer 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

total=$(($(wc -l <"$flights") - 1))
# A record is the line of the file; its key is the carrier, the tenth column.
keyed() { tail -n +2 "$flights" | awk -F, -v OFS='\t' '{ print $10, $0 }'; }

say "1. A topic with three partitions; all flights of a carrier go to the same one."
run pspf topic create -n 3 flights

say "2. A second process follows it from the first record."
echo '$ pspf tail -f -n +1 flights > followed &'
pspf tail -f -n +1 flights >"$work/followed" &
follower=$!

say "3. A writer gets $total flights through a pipe, and is killed with SIGKILL half-way."
echo "$ flights | pspf append flights -K '\\t' --producer flights.csv --ack & kill -9 \$!"
half=$((total / 2))
mkfifo "$work/pipe"
{ keyed | { head -n "$half"; sleep 30; cat; } || true; } >"$work/pipe" 2>/dev/null &
feeder=$!
pspf append flights -K '\t' --producer flights.csv --ack <"$work/pipe" >"$work/acks" &
writer=$!
for _ in $(seq 300); do # until the first half is acknowledged and the feeder pauses
    [ -s "$work/acks" ] && break
    sleep 0.1
done
kill -9 "$writer"
wait "$writer" 2>/dev/null || true
pkill -P "$feeder" 2>/dev/null || true
kill "$feeder" 2>/dev/null || true
wait "$feeder" 2>/dev/null || true
writer=
stored=$(pspf cat flights | wc -l)
echo "the writer is dead; acknowledged and stored: $stored flights"
[ "$stored" -gt 0 ] && [ "$stored" -lt "$total" ]

say "4. The same input once more. The producer's position is in the log: only what is new is appended."
echo "$ flights | pspf append flights -K '\\t' --producer flights.csv"
keyed | pspf append flights -K '\t' --producer flights.csv
run pspf ls

say "5. Every byte is checked."
run pspf verify -v

say "6. Flights by carrier, from the topic and from the file."
pspf cat flights | cut -d, -f10 | sort | uniq -c | sort -rn >"$work/from-topic"
keyed | cut -f1 | sort | uniq -c | sort -rn >"$work/from-file"
echo "$ pspf cat flights | cut -d, -f10 | sort | uniq -c | sort -rn | head -5"
head -5 "$work/from-topic"
diff "$work/from-topic" "$work/from-file"
keyed | cut -f2- | sort >"$work/lines-of-file"
pspf cat flights | sort | diff - "$work/lines-of-file"
echo "the same $total flights, each exactly once"

say "7. What the follower saw meanwhile."
for _ in $(seq 100); do
    [ "$(wc -l <"$work/followed")" -ge "$total" ] && break
    sleep 0.1
done
sort "$work/followed" | diff - "$work/lines-of-file"
echo "all $(wc -l <"$work/followed") of them, through the kill, each once"
