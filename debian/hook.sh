#!/bin/sh
# The path of this hook in Debian's package patroni, which is diverted. The program is elsewhere, because it is not
# architecture-independent. Not a link: `dpkg --verify` would compare it with the checksum of the diverted file.
exec "/usr/libexec/patroni-tools/${0##*/}" "$@"
