#!/bin/sh
# Say how a Grid Engine job stands: running, success or failed.
if qstat -j "$1" > /dev/null 2>&1; then
  echo running
elif qacct -j "$1" | grep -Eq '^exit_status +0 *$'; then
  echo success
else
  echo failed
fi
