#!/bin/sh
# Installs the Sanderling daemon of the unpacked tarball that contains this script. POSIX sh; safe to run twice.
#
#   sudo ./install.sh                 into /usr/local, /etc/sanderling and systemd, with its own user
#   ./install.sh --prefix DIR         everything below DIR; no user, no service, no root needed
#   ./install.sh --uninstall [...]    removes the installed files; keeps configuration and state
#   ./install.sh --uninstall --purge  also removes those, including the keys of the device or hub
set -eu
umask 022

fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
say() { printf '%s\n' "$1"; }
usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }

prefix='' uninstall=no purge=no
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [ $# -ge 2 ] || fail '--prefix needs a folder'; prefix=$2; shift ;;
        --prefix=*) prefix=${1#--prefix=} ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown option $1" ;;
    esac
    shift
done
if [ "$purge" = yes ] && [ "$uninstall" = no ]; then fail '--purge needs --uninstall'; fi

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ -f "$here/bin/edge-agent" ]; then
    binary=edge-agent; service=sanderling-agent; config=agent.toml; other=cloud-hub
elif [ -f "$here/bin/cloud-hub" ]; then
    binary=cloud-hub; service=sanderling-hub; config=hub.toml; other=edge-agent
else
    fail "there is no bin/edge-agent or bin/cloud-hub beside $0: run it inside the unpacked tarball"
fi

# Target folders. With `system`, those of the machine; otherwise everything is below the prefix.
if [ -z "$prefix" ]; then
    system=yes
    [ "$(id -u)" = 0 ] || fail 'installing for the whole machine needs root: use sudo, or --prefix DIR'
    root=/usr/local etc=/etc/sanderling units=/etc/systemd/system state=/var/lib/$service
else
    system=no
    mkdir -p -- "$prefix" || fail "cannot create the folder $prefix"
    root=$(CDPATH='' cd -- "$prefix" && pwd)
    # sed writes the path to the unit and the configuration: allow only characters that need no quoting.
    case $root in *[!A-Za-z0-9/._+-]*) fail "the prefix $root may contain only letters, digits and / . _ + -" ;; esac
    etc=$root/etc/sanderling units=$root/lib/systemd/system state=$root/var/lib/$service
fi
libs=$root/lib/sanderling docs=$root/share/doc/$service

systemd_runs() { [ "$system" = yes ] && [ -d /run/systemd/system ]; }

# Writes the content of $1 with the paths of this installation to $2 with mode $3, through a temporary file.
put_rewritten() {
    sed -e "s,/usr/bin/$binary,$root/bin/$binary,g" -e "s,/usr/share/doc/,$root/share/doc/,g" \
        -e "s,/etc/sanderling/,$etc/,g" -e "s,/var/lib/$service,$state,g" "$1" > "$2.part"
    chmod "$3" "$2.part"
    mv -f -- "$2.part" "$2"
}

# Copies file $1 to $2 with mode $3; replaces a running binary instead of writing to it.
put() {
    cp -- "$1" "$2.part"
    chmod "$3" "$2.part"
    mv -f -- "$2.part" "$2"
}

if [ "$uninstall" = yes ]; then
    if systemd_runs; then systemctl disable --now "$service.service" >/dev/null 2>&1 || true; fi
    rm -f -- "$root/bin/$binary" "$units/$service.service"
    rm -rf -- "$docs"
    # Both daemons share the library: remove it with the last one.
    if [ ! -e "$root/bin/$other" ]; then rm -rf -- "$libs"; fi
    if systemd_runs; then systemctl daemon-reload; fi
    if [ "$purge" = yes ]; then
        rm -rf -- "$state"
        rm -f -- "$etc/$config" "$etc/$config.new"
        # The context of the hub's operator, which `init --system` wrote.
        if [ "$binary" = cloud-hub ]; then rm -f -- "$etc/operator.toml"; fi
        rmdir -- "$etc" 2>/dev/null || true
        say "removed $binary, its configuration and its state"
    else
        say "removed $binary; kept $etc/$config and $state (remove them with --uninstall --purge)"
    fi
    exit 0
fi

mkdir -p -- "$root/bin" "$libs" "$docs" "$etc" "$units"
put "$here/bin/$binary" "$root/bin/$binary" 755
for file in "$here"/lib/sanderling/*; do put "$file" "$libs/${file##*/}" 644; done
for file in "$here"/share/doc/"$service"/*; do put "$file" "$docs/${file##*/}" 644; done
put_rewritten "$here/systemd/$service.service" "$units/$service.service" 644

# An edited configuration is kept: the new example is written beside it.
put_rewritten "$here/config/$config" "$etc/$config.new" 644
if [ ! -e "$etc/$config" ] || cmp -s "$etc/$config" "$etc/$config.new"; then
    mv -f -- "$etc/$config.new" "$etc/$config"
else
    say "kept your $etc/$config; this version's example is $etc/$config.new"
fi

if [ "$system" = yes ]; then
    if ! getent passwd "$service" >/dev/null 2>&1; then
        useradd --system --user-group --home-dir "$state" --no-create-home --shell /usr/sbin/nologin "$service"
    fi
    install -d -m 700 -o "$service" -g "$service" "$state"
    if systemd_runs; then
        systemctl daemon-reload
        # An update of a running service takes effect at once.
        systemctl try-restart "$service.service"
    fi
else
    mkdir -p -- "$state"
    chmod 700 "$state"
fi

say "installed $("$root/bin/$binary" --version) below $root"
say "configuration: $etc/$config"
run_as=''
if [ "$system" = yes ]; then run_as="sudo -u $service "; fi
start="$root/bin/$binary"
if [ "$binary" = edge-agent ]; then
    start="$start run --config $etc/$config"
    say "next:  ${run_as}$root/bin/$binary enroll --config $etc/$config TOKEN   (TOKEN: on the hub, cloud-hub token create)"
else
    start="$start serve --config $etc/$config"
    as_root=''
    if [ "$system" = yes ]; then as_root='sudo '; fi
    # It completes the configuration above and creates the hub in the state folder above, for the user above.
    say "next:  ${as_root}$root/bin/$binary init --system --keys offline-keys --name hub.example   (the name that devices dial)"
fi
if [ "$system" = yes ]; then start="sudo systemctl enable --now $service"; fi
say "then:  $start"
