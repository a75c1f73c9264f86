#!/bin/sh
# mailbridge's commands for the service that systemd runs: its configuration, its secrets, its
# state. To be installed as /usr/local/sbin/mailbridge and called by root.
set -eu
name=mailbridge
CREDENTIALS_DIRECTORY=/run/credentials/$name.service
# Before the first start there are no credentials; plain files bear the same names.
[ -d "$CREDENTIALS_DIRECTORY" ] || CREDENTIALS_DIRECTORY=/etc/$name
STATE_DIRECTORY=/var/lib/$name
RUNTIME_DIRECTORY=/run/$name
export CREDENTIALS_DIRECTORY STATE_DIRECTORY RUNTIME_DIRECTORY
exec /opt/mailbridge/bin/mailbridge --config /etc/mailbridge/mailbridge.yaml "$@"
