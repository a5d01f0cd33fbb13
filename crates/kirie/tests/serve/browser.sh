#!/bin/sh
# Runs the tests of `kirie serve`, those of the page in headless Chromium included. On Debian and its relatives the browser and its
# driver are installed if they are missing (as root, or with sudo).
set -eu
if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update
  $sudo apt-get install -y --no-install-recommends chromium chromium-driver fonts-dejavu-core
fi
cd "$(dirname "$0")/../../../.."
cargo test -p kirie --test serve -- --nocapture
echo "screenshots: target/tmp/screenshots"
