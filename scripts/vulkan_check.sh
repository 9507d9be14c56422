#!/usr/bin/env bash
# Runs kernels in SPIR-V on a driver in software that has cooperative matrices, which is Vulkan's name for tensor cores: Mesa 26
# from Debian's backports. It is installed into a folder of its own, where the tests run too, so nothing of this system changes.
# Needs root, debootstrap and Debian's archive; 750 MB and a minute for the driver, six minutes for the rest.
#
# Usage: scripts/vulkan_check.sh [--training]     --training: also all other kernels and training, as tests/gpu_parity
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin
command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 2; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
archive=http://deb.debian.org/debian
{
    debootstrap --variant=minbase trixie "$root" "$archive"
    echo "deb $archive trixie-backports main" >"$root/etc/apt/sources.list.d/backports.list"
    chroot "$root" apt-get update
    chroot "$root" apt-get install -y --no-install-recommends -t trixie-backports mesa-vulkan-drivers libvulkan1
} >"$root/log" 2>&1 || { tail -n 20 "$root/log" >&2; exit 1; }
chroot "$root" dpkg-query --show --showformat '${Package} ${Version}\n' mesa-vulkan-drivers

# Cargo starts tests by this.
cat >"$root/start" <<END
#!/bin/sh
program=\$1
shift
cp "\$program" "$root/program"
exec chroot "$root" /program "\$@"
END
chmod +x "$root/start"
host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${host}_RUNNER=$root/start"

cargo test --package upcycle-kernels --features vulkan --lib -- --ignored --nocapture on_tensor_cores
if [ "${1:-}" = --training ]; then
    cargo test --package upcycle-experiments --no-default-features --features cpu,vulkan --test gpu_parity -- vulkan::
fi
