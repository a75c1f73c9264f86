#!/bin/sh
# Install the distribution's packages that the tests need, those that are missing: `make test`.
#
# The tests run private copies of these servers on ports of their own. The services that the
# packages bring are not started and not enabled. Called with names of packages, it installs those.
set -eu
[ $# -gt 0 ] || set -- dovecot-core dovecot-imapd dovecot-pop3d dovecot-lmtpd postfix postgresql \
    isync strace
units="dovecot.service dovecot.socket postfix.service postgresql.service"

die() {
    echo "mailbridge set-up: $1" >&2
    exit 1
}

if ! command -v dpkg-query > /dev/null; then
    die "this is no Debian or Ubuntu; install what these packages contain, then call pytest: $*"
fi
missing=
for package in "$@"; do
    case $(dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2> /dev/null || true) in
        ii*) ;;
        *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo > /dev/null; then
    root=sudo
else
    die "missing packages, and no sudo: run as root: apt-get install$missing"
fi

policy=/usr/sbin/policy-rc.d
log=$(mktemp)
made_policy=
cleanup() {
    rm -f "$log"
    [ -z "$made_policy" ] || $root rm -f "$policy"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

echo "Installing$missing (once, about 30 s) ..."
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" > /dev/null
    $root chmod 755 "$policy"
fi
preseed="postfix postfix/main_mailer_type select No configuration"
apt() {
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}
# shellcheck disable=SC2086 -- a list of names
if ! {
    echo "$preseed" | $root debconf-set-selections
    apt update && apt install --yes --no-install-recommends $missing
} > "$log" 2>&1 < /dev/null; then
    cat "$log"
    die "apt-get could not install$missing; its output stands above"
fi
if command -v systemctl > /dev/null; then
    for unit in $units; do
        # not every package brings every unit
        case $missing in
            *"${unit%%.*}"*) $root systemctl disable --quiet "$unit" > /dev/null 2>&1 || true ;;
        esac
    done
fi
echo "Installed; nothing was started."
