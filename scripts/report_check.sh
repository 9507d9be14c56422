#!/usr/bin/env bash
# Opens a report in headless Chromium: screenshots in light and dark, and as on paper; fails where one of them is blank, where
# light and dark look the same, or where the page wants anything from outside itself.
#
# Usage: scripts/report_check.sh REPORT.html [FOLDER]     FOLDER: where the pictures go, by default beside the report
set -euo pipefail
report=$(realpath "$1")
out=$(realpath "${2:-$(dirname "$report")}")
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "no Chromium here: apt-get install chromium" >&2
    exit 2
}
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

# shot FILE WIDTH FLAGS..
shot() {
    local file=$1 width=$2
    shift 2
    timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync \
        --disable-background-networking --disable-component-update --hide-scrollbars --user-data-dir="$profile" \
        --window-size="$width,3000" "$@" "file://$report" >"$profile/log" 2>&1 || { cat "$profile/log" >&2; exit 1; }
    # A blank page of this size compresses to a few kilobytes.
    [ "$(stat -c %s "$file")" -gt 40000 ] || { echo "$file is blank" >&2; exit 1; }
}
shot "$out/report-light.png" 1100 --screenshot="$out/report-light.png" --blink-settings=preferredColorScheme=1
shot "$out/report-dark.png" 1100 --screenshot="$out/report-dark.png" --blink-settings=preferredColorScheme=0
shot "$out/report-narrow.png" 420 --screenshot="$out/report-narrow.png" --blink-settings=preferredColorScheme=1
shot "$out/report.pdf" 1100 --print-to-pdf="$out/report.pdf" --no-pdf-header-footer
if cmp -s "$out/report-light.png" "$out/report-dark.png"; then
    echo "light and dark look the same" >&2
    exit 1
fi
if grep -oE '(src|href)="(https?:)?//[^"]*"|url\(' "$report"; then
    echo "the report wants something from outside" >&2
    exit 1
fi
echo "$out/report-{light,dark,narrow}.png and report.pdf"
