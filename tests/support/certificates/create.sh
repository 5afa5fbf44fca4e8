#!/bin/sh
# Creates the certificates of the tests: an authority, and what it issued. They are valid for a hundred years.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# issue NAME SUBJECT_ALT_NAME OPTIONS...
issue() {
  name=$1 san=$2
  shift 2
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" -keyout "$work/key" -out "$work/request"
  printf 'subjectAltName=%s\n' "$san" > "$work/extensions"
  openssl x509 -req -in "$work/request" -CA ca.pem -CAkey "$work/ca.key" -extfile "$work/extensions" "$@" -out "$work/cert"
  cat "$work/cert" "$work/key" > "$name.pem"
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=test authority" \
  -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$work/ca.key" -out ca.pem
issue server DNS:localhost,IP:127.0.0.1 -days 36500
issue other-host DNS:elsewhere.example -days 36500
issue client DNS:client.example -days 36500

# openssl x509 has no option for a date in the past before OpenSSL 3.4.
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=expired" -keyout "$work/key" -out "$work/request"
: > "$work/index"
printf '[ca]\ndatabase=%s\nrand_serial=yes\nnew_certs_dir=%s\npolicy=any\n[any]\ncommonName=supplied\n' "$work/index" "$work" > "$work/config"
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > "$work/extensions"
openssl ca -batch -notext -config "$work/config" -name ca -md sha256 -cert ca.pem -keyfile "$work/ca.key" -in "$work/request" \
  -extfile "$work/extensions" -startdate 20200101000000Z -enddate 20200201000000Z -out "$work/cert"
cat "$work/cert" "$work/key" > expired.pem
