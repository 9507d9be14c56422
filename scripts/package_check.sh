#!/usr/bin/env bash
# Checks that packages build from what is in them: unpacks the crates that `cargo package` made into the folder given, far
# from this workspace, and checks them together, with the dependencies as this workspace has them.
set -euo pipefail
packages=$(realpath "$1")
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
for package in "$packages"/*.crate; do
    # With the time of now: files in a package are all of the same old day, by which cargo would take them for those of an
    # earlier check.
    tar xzmf "$package" -C "$unpacked"
done
{
    printf '[workspace]\nresolver = "3"\nmembers = ["*-*"]\n\n[patch.crates-io]\n'
    for folder in "$unpacked"/*-*/; do
        name=$(basename "$folder")
        printf '%s = { path = "%s" }\n' "${name%-*}" "$name"
    done
    # Profiles of dependencies, so that these are compiled already.
    sed -n '/^\[profile/,$p' Cargo.toml
} >"$unpacked/Cargo.toml"
cp Cargo.lock "$unpacked"
cargo check --manifest-path "$unpacked/Cargo.toml" --workspace --quiet
