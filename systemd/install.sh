#!/bin/sh
# Installs checkpointd on a gateway, or brings an installed one up to date.
set -eu

user=checkpointd
group=checkpointd

usage() {
    cat <<END
usage: install.sh [--root DIR] [--online] PACKAGES
       install.sh [--root DIR] --skip-environment

Installs checkpointd, or brings it up to date. Run it as root. It can be run again at any time;
configuration that stands is never changed.

  PACKAGES            a directory with the wheel (or source archive) of checkpointd and the wheels
                      of what it needs; nothing is fetched from a network
  --online            what PACKAGES lacks may come from the package index that pip knows
  --skip-environment  leave /opt/checkpointd as it is
  --root DIR          install below DIR instead of /, without user, owners or services: a trial
  --help              this text

  /opt/checkpointd                              the program, in an environment of its own
  /etc/checkpointd                              configuration; the example where nothing stands
  /var/lib/checkpointd                          the records (mode 0700)
  /etc/systemd/system/checkpointd.service       the service
  /etc/udev/rules.d/99-checkpoint-ports.rules   serial ports
END
}

say() { printf '%s\n' "$*"; }

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

root=
packages=
index_option=--no-index
with_environment=yes

while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --root)
        [ $# -ge 2 ] || fail "--root needs a directory"
        root=${2%/}
        [ -d "$2" ] || fail "--root $2: there is no such directory; make it first"
        [ -n "$root" ] || fail "--root /: leave --root out to install for good"
        shift
        ;;
    --online) index_option= ;;
    --skip-environment) with_environment=no ;;
    -*) fail "$1: unknown option; see install.sh --help" ;;
    *)
        [ -z "$packages" ] || fail "$1: one directory of packages is enough; $packages was given"
        packages=$1
        ;;
    esac
    shift
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
example=$(dirname -- "$here")/config
for needed in "$here/checkpointd.service" "$here/99-checkpoint-ports.rules" \
    "$example/gateway.toml" "$example/lanes/inbound-1.toml"; do
    [ -f "$needed" ] || fail "$needed is missing; run install.sh from the whole source tree"
done

if [ "$with_environment" = yes ]; then
    [ -n "$packages" ] || fail "give the directory with the packages; see install.sh --help"
    [ -d "$packages" ] || fail "$packages: there is no such directory"
    found=no
    for file in "$packages"/checkpointd-*.whl "$packages"/checkpointd-*.tar.gz; do
        [ -f "$file" ] && found=yes
    done
    [ "$found" = yes ] || fail "$packages holds no checkpointd-*.whl and no checkpointd-*.tar.gz"
    command -v python3 >/dev/null || fail "python3 is missing; install python3 and python3-venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(python3 --version) is too old; 3.11 or later is needed"
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        fail "python3 cannot make an environment; install python3-venv"
elif [ -n "$packages" ]; then
    fail "$packages: with --skip-environment no packages are used; leave one of them out"
fi

if [ -z "$root" ]; then
    [ "$(id -u)" -eq 0 ] || fail "must run as root: sudo $0 … (or try it with --root DIR)"
    for program in useradd systemctl udevadm; do
        command -v "$program" >/dev/null || fail "$program is missing; this needs Linux with systemd"
    done
    getent group dialout >/dev/null || fail "there is no group dialout; make it: groupadd -r dialout"
fi

# folder MODE OWNER DIRECTORY: made where it is missing; its owner only where this is no trial.
folder() {
    mkdir -p "$root$3"
    chmod "$1" "$root$3"
    if [ -z "$root" ]; then chown "$2" "$3"; fi
}

# example FILE: the example's file, only where none stands.
example() {
    if [ -e "$root/etc/checkpointd/$1" ]; then
        say "kept /etc/checkpointd/$1"
        return
    fi
    cp "$example/$1" "$root/etc/checkpointd/$1"
    chmod 0640 "$root/etc/checkpointd/$1"
    if [ -z "$root" ]; then chown "root:$group" "/etc/checkpointd/$1"; fi
    say "new  /etc/checkpointd/$1: an example, change it for this site"
}

if [ -z "$root" ] && ! getent passwd "$user" >/dev/null; then
    useradd --system --user-group --groups dialout --home-dir /var/lib/checkpointd \
        --no-create-home --shell /usr/sbin/nologin "$user"
    say "new  user $user"
fi

folder 0750 "root:$group" /etc/checkpointd
folder 0750 "root:$group" /etc/checkpointd/lanes
folder 0750 "root:$group" /etc/checkpointd/tls
folder 0700 "$user:$group" /var/lib/checkpointd

has_lane=no
for file in "$root"/etc/checkpointd/lanes/*.toml; do
    [ -e "$file" ] && has_lane=yes
done
example gateway.toml
if [ "$has_lane" = yes ]; then
    say "kept /etc/checkpointd/lanes"
else
    example lanes/inbound-1.toml
fi

if [ "$with_environment" = yes ]; then
    environment=$root/opt/checkpointd
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    # shellcheck disable=SC2086  # empty means: no option
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade \
        $index_option --find-links "$packages" checkpointd ||
        fail "pip could not install checkpointd from $packages; see its message above"
    chmod -R go+rX "$environment"
    say "new  /opt/checkpointd: $("$environment/bin/python" -m pip show checkpointd | sed -n 's/^Version: //p')"
fi

mkdir -p "$root/etc/systemd/system" "$root/etc/udev/rules.d"
cp "$here/checkpointd.service" "$root/etc/systemd/system/checkpointd.service"
chmod 0644 "$root/etc/systemd/system/checkpointd.service"
say "new  /etc/systemd/system/checkpointd.service"

# The rules hold the site's own names once somebody has written them in.
rules=/etc/udev/rules.d/99-checkpoint-ports.rules
if [ ! -e "$root$rules" ]; then
    cp "$here/99-checkpoint-ports.rules" "$root$rules"
    chmod 0644 "$root$rules"
    say "new  $rules"
elif ! cmp -s "$here/99-checkpoint-ports.rules" "$root$rules"; then
    cp "$here/99-checkpoint-ports.rules" "$root$rules.new"
    chmod 0644 "$root$rules.new"
    say "kept $rules, which differs; the new one is beside it as 99-checkpoint-ports.rules.new"
else
    say "kept $rules"
fi

if [ -z "$root" ]; then
    systemctl daemon-reload
    udevadm control --reload
    say "next: put site, lanes and keys into /etc/checkpointd, then"
    say "  sudo -u $user /opt/checkpointd/bin/checkpointd check --config /etc/checkpointd"
    say "  sudo systemctl enable --now checkpointd    (running already: sudo systemctl restart checkpointd)"
fi
