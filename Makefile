# make demo          three Debian machines with a running cluster, to look at and to play with
# make check         everything; `make check-fast` for every few minutes
# make deb           the package, into dist/
# make bench         how fast it is, beside what it is compared with (with DNSCP_SH=path/of/dnscp.sh, that script too)
# make check-theirs  the cases against Debian's own scripts, which must fail where we mean to differ
#
# They run as root on Debian 12 or 13 and install what they need. Images of machines are kept in
# $PATRONI_TOOLS_CACHE (/var/cache/patroni-tools-lab).

RELEASE ?= 13
CARGO ?= cargo
LAB = target/debug/lab
sources = $(shell git ls-files Cargo.toml Cargo.lock crates templates systemd udev debian docs/man docs/passwords.md)

.PHONY: demo demo-down check check-fast check-host check-point check-stores check-surroundings check-theirs deb bench setup lab msrv \
	lintian system system-first system-second

demo: setup deb lab
	tests/demo $(RELEASE)

demo-down: setup lab
	$(LAB) down --name demo

check: export REQUIRE_ALL = 1
check: setup
	$(MAKE) check-fast check-host
	$(MAKE) deb msrv lintian
	$(MAKE) system

# No root, no machines.
check-fast:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings
	$(CARGO) test --quiet -p site -p patroni-tools -p dnscp --lib --bins --test cases --test dnscp --test launcher
	$(CARGO) test --quiet -p site -p patroni-tools -p dnscp --doc

# A PostgreSQL, network namespaces, BIND, Kerberos and Samba on this host; and a million texts through the generator, from
# another seed each time, which is printed.
check-host:
	PROPERTY_CASES=1000000 PROPERTY_SEED=$${PROPERTY_SEED:-$$(date +%s)} $(CARGO) test -p patroni-tools --test cases values::
	$(CARGO) test -p patroni-tools -p dnscp --test hooks --test vip --test callback --test netns_dns --test runs --test doctor

# Two at a time, because most of them wait for a store or for Patroni most of the time.
system: lab
	tests/cases/findings/run ours
	$(CARGO) test --quiet -p lab --doc
	$(CARGO) test -p lab --no-run
	$(MAKE) --jobs=2 system-first system-second

first = point stores haproxy three_nodes
second = $(filter-out $(first),$(basename $(notdir $(wildcard tests/system/tests/*.rs))))

system-first:
	$(CARGO) test -p lab $(addprefix --test ,$(first)) -- --nocapture

system-second:
	$(CARGO) test -p lab --lib --bins $(addprefix --test ,$(second)) -- --nocapture

# Who holds the virtual address, on three machines of each release: ten minutes. A part of check.
check-point: export REQUIRE_ALL = 1
check-point: setup deb lab
	$(CARGO) test -p lab --test point -- --nocapture

# Every store with its real servers, secured, on three machines of each release: six minutes. A part of check.
check-stores: export REQUIRE_ALL = 1
check-stores: setup deb lab
	$(CARGO) test -p lab --test stores -- --nocapture

# The programs around a cluster, on three machines of each release: twenty minutes. A part of check.
check-surroundings: export REQUIRE_ALL = 1
check-surroundings: setup deb lab
	$(CARGO) test -p lab --test haproxy --test edge --test three_nodes --test pg_patronictl -- --nocapture

check-theirs: setup lab
	tests/cases/findings/run theirs

bench: setup deb lab
	$(LAB) bench --deb dist/patroni-tools_*.deb $(if $(DNSCP_SH),--dnscp-sh $(DNSCP_SH))

deb: dist/.built

dist/.built: $(sources) | lab
	rm -rf dist
	$(LAB) build-deb . dist
	touch $@

# Debian 13's own compiler is the oldest one that we promise.
msrv: lab
	$(LAB) in-image build13 --src . -- cargo check --locked --workspace --all-targets

lintian: deb
	$(LAB) in-image build --src . -- sh -c 'lintian --fail-on error,warning /src/dist/*.changes'

lab:
	$(CARGO) build --quiet -p lab

setup:
	tests/setup
