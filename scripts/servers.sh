#!/bin/sh
# Install the distribution's packages that the tests need, those that are missing: `make test`.
#
# The tests run private copies of these servers on ports of their own. The services that the
# packages bring are not started and not enabled. Called with names of packages, it installs those.
#
# Cyrus is the second IMAP server. Its daemons and Dovecot's exclude each other as packages, so
# only cyrus-common is installed, which has the rest of it; the daemons of the same version are
# downloaded by apt-get, which checks what it gets, and unpacked into .cache/cyrus.
set -eu
cyrus=
oidc=
if [ $# = 0 ]; then
    set -- dovecot-core dovecot-imapd dovecot-pop3d dovecot-lmtpd postfix postgresql \
        isync strace cyrus-common chromium groff-base \
        systemd-container mmdebstrap procps podman podman-compose crun uidmap
    cyrus=$(cd "$(dirname "$0")/.." && pwd)/.cache/cyrus
    # The OAuth server runs on Node.js, which may have come from elsewhere.
    oidc=$(dirname "$0")/oidc.sh
    command -v node > /dev/null || set -- "$@" nodejs
    command -v npm > /dev/null || set -- "$@" npm
fi
units="dovecot-core:dovecot.service dovecot-core:dovecot.socket postfix:postfix.service
    postgresql:postgresql.service cyrus-common:cyrus-imapd.service"

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
cyrus_version() {
    dpkg-query --show --showformat='${Version}' cyrus-common
}
# Whether the daemons are there, and of the version of the libraries that they are linked with.
cyrus_there() {
    [ -z "$cyrus" ] || [ "$(cat "$cyrus/version" 2> /dev/null)" = "$(cyrus_version)" ]
}
if [ -z "$missing" ] && cyrus_there; then
    [ -z "$oidc" ] || exec "$oidc"
    exit 0
fi

policy=/usr/sbin/policy-rc.d
log=$(mktemp)
made_policy=
root=
cleanup() {
    rm -f "$log"
    [ -z "$made_policy" ] || $root rm -f "$policy"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

apt() {
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

# Install packages, or their newest version, and remove nothing for them: rather fail than take
# away a mail server that somebody uses.
install() {
    if [ "$(id -u)" = 0 ]; then
        root=
    elif command -v sudo > /dev/null; then
        root=sudo
    else
        die "missing packages, and no sudo: run as root: apt-get install $*"
    fi
    if [ ! -e "$policy" ]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" > /dev/null
        $root chmod 755 "$policy"
    fi
    preseed="postfix postfix/main_mailer_type select No configuration"
    if ! {
        echo "$preseed" | $root debconf-set-selections
        apt update && apt install --yes --no-install-recommends --no-remove "$@"
    } > "$log" 2>&1 < /dev/null; then
        cat "$log"
        die "apt-get could not install $*; its output stands above"
    fi
    command -v systemctl > /dev/null || return 0
    for unit in $units; do
        case " $* " in
            *" ${unit%%:*} "*)
                $root systemctl disable --quiet "${unit#*:}" > /dev/null 2>&1 || true ;;
        esac
    done
}

# Download the daemons that belong to the installed cyrus-common and put them in their place.
unpack_cyrus() {
    version=$(cyrus_version)
    rm -rf "$cyrus.new"
    mkdir -p "$cyrus.new"
    (
        cd "$cyrus.new" &&
            apt-get -q download "cyrus-imapd=$version" "cyrus-pop3d=$version" > "$log" 2>&1 &&
            for package in *.deb; do
                dpkg-deb -x "$package" . || exit 1
            done
    ) || return 1
    rm -f "$cyrus.new"/*.deb
    echo "$version" > "$cyrus.new/version"
    rm -rf "$cyrus"
    mv "$cyrus.new" "$cyrus"
}

if [ -n "$missing" ]; then
    echo "Installing$missing (once, about 30 s) ..."
    # shellcheck disable=SC2086 -- a list of names
    install $missing
fi
if ! cyrus_there && ! unpack_cyrus; then
    # apt's lists are old, or the archive has only a newer version than the one installed
    install cyrus-common
    if ! unpack_cyrus; then
        cat "$log"
        die "apt-get could not download Cyrus; its output stands above"
    fi
fi
echo "Installed; nothing was started."
[ -z "$oidc" ] || "$oidc"
