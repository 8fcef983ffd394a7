# make demo          three Debian machines with a running cluster, to look at and to play with
# make check         everything; `make check-fast` is for every few minutes
# make deb           the package, into dist/
# make pictures      the pictures in docs/pictures, from their sources there
# make bench         benchmarks (with DNSCP_SH=path/of/dnscp.sh, also of that script)
# make check-all     what is too long for every check, in parts
# make check-theirs  the findings with Debian's own scripts, which must fail if they are meant to differ
#
# They run as root on Debian 12 or 13 and install what they need on this host: see CONTRIBUTING.md. Images of machines are kept in
# $PATRONI_TOOLS_CACHE (/var/cache/patroni-tools-lab).

RELEASE ?= 13
CARGO ?= cargo
LAB = target/debug/lab
sources = $(shell git ls-files Cargo.toml Cargo.lock crates templates monitoring systemd udev debian docs/man SECURITY.md 'docs/*.md' docs/pictures)

# An error says where it comes from; a backtrace would only hide it.
export RUST_LIB_BACKTRACE = 0

.PHONY: demo demo-down check check-all before adoptions adoptions-restart links suite-12 suite-13 rounds again check-fast check-host check-point check-standby check-stores check-surroundings check-theirs \
	deb bench setup setup-demo lab msrv lintian pictures system format clippy units docs values host previous findings lab-docs system-first system-second system-third

# The image of the machines is made beside the compiler, which leaves the network alone.
demo: setup-demo lab
	$(LAB) image $(RELEASE) & image=$$!; $(MAKE) deb && wait $$image
	tests/demo $(RELEASE)

setup-demo:
	tests/setup demo

demo-down: setup lab
	$(LAB) down --name demo

# All parts, whatever fails; then what failed, by name. Without a package there is nothing that the machines could install.
check: export REQUIRE_ALL = 1
check: setup
	rm -rf target/check
	-$(MAKE) --keep-going check-fast
	-$(MAKE) --keep-going check-host
	-$(MAKE) --keep-going deb msrv lintian
	-test -e dist/.built && $(MAKE) --keep-going system
	@tests/part summary tests/summary $(fast) $(host) deb msrv lintian $(system)

# A part is known by the name of its target, see tests/part.
part = tests/part $@

fast = format clippy units docs
host = values host
system = previous findings lab-docs system-first system-second system-third

# No root, no machines.
check-fast: $(fast)

format:
	$(part) $(CARGO) fmt --all --check

clippy:
	$(part) $(CARGO) clippy --quiet --workspace --all-targets -- -D warnings

units:
	$(part) $(CARGO) test --no-fail-fast -p host -p patroni-tools -p dnscp -p lab --lib --bins --test cases --test dnscp --test documents --test launcher --test layers -- --quiet

docs:
	$(part) $(CARGO) test --no-fail-fast -p host -p patroni-tools -p dnscp --doc -- --quiet

# A PostgreSQL, network namespaces, BIND, Kerberos and Samba on this host; and a million texts through the generator, from
# another seed each time, which is printed.
check-host: $(host)

values: export PROPERTY_CASES = 1000000
values: export PROPERTY_SEED := $(or $(PROPERTY_SEED),$(shell date +%s))
values:
	$(part) $(CARGO) test -p patroni-tools --test cases values::

host:
	$(part) $(CARGO) test --no-fail-fast -p patroni-tools -p dnscp --test hooks --test vip --test callback --test netns_dns --test runs \
		--test doctor

# Three tests at a time, because most of them wait for a DCS or for Patroni most of the time, and the third for silence.
system: lab
	@failed=; \
	$(MAKE) --keep-going previous findings lab-docs || failed=1; \
	{ $(CARGO) test -p lab --no-run && $(MAKE) --keep-going --jobs=3 system-first system-second system-third; } || failed=1; \
	test -z "$$failed"

# The package that upgrades start from.
previous: lab
	$(part) $(LAB) previous-deb

findings: lab
	$(part) tests/cases/findings/run ours

lab-docs: lab
	$(part) $(CARGO) test --quiet -p lab --doc

first = point stores haproxy three_nodes secrets upgrade adopt adopt_page settings
# Ten minutes of it are silence.
third = edge
second = $(filter-out $(first) $(third),$(basename $(notdir $(wildcard tests/system/tests/*.rs))))

system-first:
	$(part) $(CARGO) test --no-fail-fast -p lab $(addprefix --test ,$(first)) -- --nocapture

system-second:
	$(part) $(CARGO) test --no-fail-fast -p lab $(addprefix --test ,$(second)) -- --nocapture

system-third:
	$(part) $(CARGO) test --no-fail-fast -p lab $(addprefix --test ,$(third)) -- --nocapture

# Who holds the virtual address, on three machines of each release: ten minutes. A part of check.
check-point: export REQUIRE_ALL = 1
check-point: setup deb lab
	$(CARGO) test -p lab --test point -- --nocapture

# A synchronous standby that freezes, loses its cable or its power, on three machines of each release: five minutes. A part of check.
check-standby: export REQUIRE_ALL = 1
check-standby: setup deb lab
	$(CARGO) test -p lab --test standby -- --nocapture

# Every DCS with its real servers, secured, on three machines of each release: six minutes. A part of check.
check-stores: export REQUIRE_ALL = 1
check-stores: setup deb lab
	$(CARGO) test -p lab --test stores -- --nocapture

# The programs around a cluster, on three machines of each release: twenty minutes. A part of check.
check-surroundings: export REQUIRE_ALL = 1
check-surroundings: setup deb lab
	$(CARGO) test -p lab --test haproxy --test edge --test three_nodes --test pg_patronictl -- --nocapture

# What is too long for every check: the attacks of tests/system/tests/security.rs against 0.1.0, which must succeed there; adoptions that
# are killed, or end in a power cut, at every record of their journal; servers of etcd and links that fail; all of postgresql-common's own
# tests, without this package and with it; and the unit and case tests many times. Each part takes 40 minutes at most.
check-all: export REQUIRE_ALL = 1
check-all: setup
	-$(MAKE) --keep-going $(all)
	@tests/part summary tests/summary $(all); status=$$?; echo "at commit $$(git describe --always --dirty)"; exit $$status

all = before adoptions adoptions-restart links suite-12 suite-13 rounds

before: previous
	$(part) $(CARGO) test --no-fail-fast -p lab --test security -- --ignored --nocapture

adoptions: lab deb
	$(part) $(CARGO) test --no-fail-fast -p lab --test adopt interrupted_anywhere -- --ignored --nocapture

adoptions-restart: lab deb
	$(part) $(CARGO) test --no-fail-fast -p lab --test adopt interrupted_restart -- --ignored --nocapture

links: lab deb
	$(part) $(CARGO) test --no-fail-fast -p lab --test standby -- --ignored --nocapture

suite-12 suite-13: lab deb
	$(part) $(CARGO) test --no-fail-fast -p lab --test suite whole_debian_$(@:suite-%=%) -- --ignored --nocapture

rounds: ROUNDS ?= 200
rounds:
	$(part) tests/rounds $(ROUNDS) 38 $(MAKE) --silent units CHECK_RESULTS=target/rounds

# One system test many times: make again TEST=stores
again: ROUNDS ?= 10
again: setup deb lab
	REQUIRE_ALL=1 tests/rounds $(ROUNDS) 600 $(CARGO) test -p lab --test $(TEST) -- --nocapture

check-theirs: setup lab
	tests/cases/findings/run theirs

bench: setup deb lab
	$(LAB) bench --deb dist/patroni-tools_*.deb $(if $(DNSCP_SH),--dnscp-sh $(DNSCP_SH))

deb: dist/.built
	@$(part) true

dist/.built: $(sources) | lab
	rm -rf dist
	tests/part deb $(LAB) build-deb . dist
	touch $@

# Debian 13's own compiler is the oldest one that is supported.
msrv: lab
	$(part) $(LAB) in-image build13 --src . -- cargo check --locked --workspace --all-targets

lintian: deb
	$(part) $(LAB) in-image build --src . -- sh -c 'lintian --fail-on error,warning /src/dist/*.changes'

# The pictures are in the repository, so that nothing else needs graphviz.
pictures: docs/pictures/three-nodes.svg docs/pictures/failover.svg

docs/pictures/%.svg: docs/pictures/%.dot
	tests/setup pictures
	dot -Tsvg $< | sed '/^<!--/d; /^ -->/d' > $@.new
	mv $@.new $@

docs/pictures/%.svg: docs/pictures/%.gp
	tests/setup pictures
	gnuplot $< | sed 's/<desc>.*<.desc>//' > $@.new
	mv $@.new $@

lab:
	$(CARGO) build --quiet -p lab

setup:
	tests/setup
