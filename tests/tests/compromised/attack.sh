#!/usr/bin/busybox sh
# Runs in QEMU's place, with all that it is given, and says in two lines what it could do and what not.
# Nothing here does harm where it succeeds: it also runs as root on a node, where it must.

could=""
could_not=""

try() {
  name=$1
  shift
  if ("$@") >/dev/null 2>&1; then could="$could $name"; else could_not="$could_not $name"; fi
}

hold_a_capability() { grep '^Cap' /proc/self/status | grep -qv '0000000000000000$'; }
be_without_seccomp() { ! grep -q '^Seccomp:.*2$' /proc/self/status; }
gain_privileges() { ! grep -q '^NoNewPrivs:.*1$' /proc/self/status; }
have_a_user_namespace() { unshare -U true; }
change_root() { chroot / /usr/bin/busybox true; }
mount_a_file_system() { mount -t tmpfs none /usr; }
make_a_device() { mknod /dev/escaped c 1 3 && rm /dev/escaped; }
change_the_network() { ip addr add 127.1.2.3/8 dev lo && ip addr del 127.1.2.3/8 dev lo; }
change_the_kernel() { core=$(cat /proc/sys/kernel/core_pattern) && echo "$core" >/proc/sys/kernel/core_pattern; }

write_somewhere() {
  for at in $(cut -d ' ' -f 2 /proc/mounts); do
    touch "$at/escaped" && rm "$at/escaped" && return
  done
  return 1
}

see_kubelets_files() { ls /var/lib/kubelet/pods; }
see_the_nodes_sockets() { grep -q containerd /proc/net/unix; }
see_control_groups() { ls /sys/fs/cgroup/*; }
see_a_disk_of_the_node() { for at in /dev/*; do [ -b "$at" ] && return; done; return 1; }

see_processes_of_others() {
  me=$(id -u)
  for at in /proc/[0-9]*; do
    [ "$at" != /proc/1 ] && [ "$(stat -c %u "$at")" != "$me" ] && return
  done
  return 1
}
enter_the_first_process() { nsenter -t 1 -u true; }
signal_the_first_process() { kill -0 1; }
read_the_first_processs_root() { ls /proc/1/root/; }
read_the_first_processs_environment() { cat /proc/1/environ; }
read_the_first_processs_memory() { : </proc/1/mem; }
use_the_first_processs_descriptors() { ls /proc/1/fd/; }

# The descriptors that were there when this began.
hold_a_directory() { for at in $descriptors; do [ -d "$at" ] && return; done; return 1; }
hold_a_device() {
  for at in $descriptors; do
    [ -b "$at" ] && return
    if [ -c "$at" ]; then
      case $(readlink "$at") in */dev/null | */dev/net/tun | */dev/vhost-net) ;; *) return ;; esac
    fi
  done
  return 1
}
# Opens the file that begins so once more, or writes to its descriptor what is there already: a whole
# block, since the descriptor may bypass the page cache.
write_file() {
  for at in $descriptors; do
    if [ -f "$at" ] && [ "$(head -c 8 "$at")" = "$1" ]; then
      true >>"$at" && return
      dd if="$at" bs=4096 count=1 >&"${at##*/}" && return
    fi
  done
  return 1
}
write_a_claim() { write_file writable; }
write_a_claim_that_it_may_only_read() { write_file readonly; }

# Of this process, not of those that look.
descriptors=$(ls -d /proc/$$/fd/*)

for attack in $(grep -o '^[a-z_]*()' "$0" | tr -d '()'); do
  case $attack in try | write_file) ;; *) try "$attack" "$attack" ;; esac
done
echo "could:$could" >&2
echo "could not:$could_not" >&2
exit 1
