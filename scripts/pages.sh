#!/bin/sh
# Looks at the router's web pages in a browser, on the router's own port, in all sizes
# and colours: no errors, nothing from elsewhere, readable by all (axe), and QR codes
# that others can read.
# The pictures are in .pages/pictures. Not a part of make check: it needs node, npm,
# chromium and zbarimg (Debian: nodejs npm chromium zbar-tools).
set -eu
cd "$(dirname "$0")/.."
scripts/prerequisites.sh postgresql
for program in node npm chromium zbarimg; do
  command -v "$program" >/dev/null || { echo "$0: needs $program" >&2; exit 1; }
done
mkdir -p .pages
go build -buildvcs=false -o .pages/smpq ./cmd/smpq
cp scripts/pages.mjs .pages/
cp internal/web/site/media/qr.js .pages/qr.mjs
npm install --prefix .pages --no-save --no-audit --no-fund puppeteer-core@24 axe-core@4

port=${PAGES_PORT:-8099}
.pages/smpq serve --data .pages/data --set TRANSPORT.port="$port" --set WEB.static_path=.pages/www --set WEB.https="$port" \
  --set WEB.cert=internal/web/testdata/web.crt --set WEB.key=internal/web/testdata/web.key \
  --set INFORMATION.source_code=https://github.com/smpq/smpq --set INFORMATION.operator='Example Ltd' --set INFORMATION.operator_country=SE \
  --set INFORMATION.website=https://router.example --set INFORMATION.usage_conditions=https://router.example/conditions-of-use \
  --set INFORMATION.admin_email=admin@router.example --set INFORMATION.admin_pgp=https://router.example/key.asc \
  --set INFORMATION.admin_pgp_fingerprint='0123 4567 89AB CDEF 0123 4567 89AB CDEF 0123 4567' --set INFORMATION.hosting_type=virtual &
router=$!
trap 'kill $router; wait $router' EXIT
node .pages/pages.mjs "$port"
