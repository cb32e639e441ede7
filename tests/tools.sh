#!/bin/sh
# Programs that backups and their tests need: installs those that are missing where that can be done without asking
# (root and apt-get), else says how. It never fails: without them everything else works, and the tests say what they lack.
set -u
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
POLICY=/usr/sbin/policy-rc.d

missing() {
  command -v rsync >/dev/null || printf 'rsync '
  { command -v ssh && command -v ssh-keygen; } >/dev/null || printf 'openssh-client '
  command -v sshd >/dev/null || printf 'openssh-server '
  command -v rclone >/dev/null || printf 'rclone '
}

# A package of a service starts it as it is installed, and enables it. The tests start an sshd of their own, on a free
# port of the loopback; a machine must not begin to listen to the world because somebody ran its tests.
forbid_services() {
  [ ! -e "$POLICY" ] || return 0
  printf '#!/bin/sh\nexit 101\n' >"$POLICY" && chmod 755 "$POLICY" && trap 'rm -f "$POLICY"' EXIT INT TERM
}

install() {
  quietly apt-get update && forbid_services && quietly apt-get install -y --no-install-recommends "$@"
}

quietly() {
  said=$(DEBIAN_FRONTEND=noninteractive timeout 600 "$@" -qq -o Acquire::Retries=1 -o DPkg::Lock::Timeout=120 2>&1) && return
  printf '%s\n' "$said" | tail -n 3 >&2
  return 1
}

# A program that speaks S3, for the tests of object stores: it needs Node.js, and lies in a folder of this tree.
store() {
  [ ! -x .tools/node_modules/.bin/s3rver ] || return 0
  command -v npm >/dev/null || { echo "== no npm: the tests of object stores are skipped"; return 0; }
  echo "== installing s3rver into .tools, for the tests of object stores"
  said=$(timeout 300 npm install --prefix .tools --no-save --no-audit --no-fund s3rver@3.7.1 2>&1) || printf '%s\n' "$said" | tail -n 3 >&2
}

cd "$(dirname "$0")/.." || exit 0
store
wanted=$(missing)
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  now="$wanted"
  # With systemd an sshd would be enabled and listen after the next start of the machine: a person decides that.
  [ ! -d /run/systemd/system ] || now=$(printf '%s' "$wanted" | sed 's/openssh-server //')
  if [ -n "$now" ]; then
    echo "== installing what backups and their tests need: ${now% }"
    # shellcheck disable=SC2086 # a list of words
    install $now
  fi
  wanted=$(missing)
fi
[ -z "$wanted" ] || echo "== not there: ${wanted% }. Backups and their tests need that: apt-get install --no-install-recommends ${wanted% }"
exit 0
