#!/bin/sh
# The path of Debian's patroni for this hook, which is diverted; ours is elsewhere, as it is no architecture-independent
# file. Not a link: `dpkg --verify` would compare it with the checksum of the diverted file.
exec "/usr/libexec/patroni-tools/${0##*/}" "$@"
