#!/usr/bin/env bash
# Run by the server for `bash:///build/release.sh`: what it prints is the value of the promise.
set -euo pipefail

version=$1
environment=$2
# The same id whenever it is run again after a crash: what deploys can tell that it has done so already.
echo "Released $version to $environment ($RESONATE_PROMISE_ID)"
